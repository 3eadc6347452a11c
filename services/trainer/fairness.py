"""How a model treats groups of a protected attribute, on rows that it has not seen.

Rates and differences are those of fairlearn (Bird et al. 2020): demographic parity compares the shares that are
selected, its ratio is the disparate impact of Feldman et al. (2015), equal opportunity compares the shares of hits that
are selected, equalized odds those of the others as well (both Hardt, Price and Srebro 2016).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.trainer.evaluation import Array, Counts, Ranked, Resampling, interval
from tabular.bundle import MetricValue, Problem

# Of smaller groups nothing is said: it would be noise, and might tell of single persons.
LEAST_ROWS = 30
UNKNOWN = "unknown"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """The rows that share a value of a protected attribute; `metrics` by their plain names."""

    value: str
    rows: int
    metrics: Sequence[MetricValue]


@dataclass(frozen=True)
class Groups:
    """An attribute's groups, how far they lie apart, and how many are too small to be told."""

    attribute: str
    groups: Sequence[Group]
    differences: Sequence[MetricValue]
    suppressed: int

    def metrics(self) -> list[MetricValue]:
        """Return everything under names such as `auc{sex=1}` and `demographic_parity_difference{sex}`."""
        found = []
        for group in self.groups:
            where = f"{{{self.attribute}={group.value}}}"
            found += [MetricValue(f"rows{where}", float(group.rows), float(group.rows), float(group.rows))]
            found += [_named(metric, where) for metric in group.metrics]
        found += [_named(metric, f"{{{self.attribute}}}") for metric in self.differences]
        # What cannot be said, such as a share of no hits, is left out.
        return [metric for metric in found if np.isfinite([metric.value, metric.lower, metric.upper]).all()]


def compare(
    problem: Problem, label: Array, score: Array, threshold: float, attribute: str, values: Sequence[object]
) -> Groups:
    """Return the groups of an attribute by value, with 95 % intervals over the resamples of all rows.

    `values` has the attribute of each row, None where it is not known, which is a group of its own. A difference is
    that of the best and the worst group; over resamples it leans upwards, the more groups the more.
    """
    texts = np.array([UNKNOWN if value is None else str(value) for value in values], dtype=object)
    names = sorted(set(texts.tolist()))
    masks = {name: texts == name for name in names}
    told = [name for name in names if masks[name].sum() >= LEAST_ROWS]
    part = _PARTS[problem]
    parts = [part(label, score, threshold, masks[name]) for name in told]
    whole = [one.measure(np.ones(len(label), dtype=np.int64)) for one in parts]
    drawn = [[one.measure(counts) for one in parts] for counts in Resampling(len(label)).counts()] if parts else []
    groups = [
        Group(
            name,
            int(masks[name].sum()),
            [interval(key, value, np.array([draw[n][key] for draw in drawn])) for key, value in whole[n].items()],
        )
        for n, name in enumerate(told)
    ]
    differences: list[MetricValue] = []
    if len(told) > 1:
        apart = [_differences(draw) for draw in drawn]
        differences = [
            interval(key, value, np.array([draw[key] for draw in apart])) for key, value in _differences(whole).items()
        ]
    return Groups(attribute, groups, differences, len(names) - len(told))


class _Decided:
    """A group's rows of a classification."""

    def __init__(self, label: Array, score: Array, threshold: float, mask: Mask) -> None:
        self._mask = mask
        self._label = label[mask]
        self._selected = score[mask] >= threshold
        self._ranked = Ranked(self._label, score[mask])

    def measure(self, counts: Counts) -> dict[str, float]:
        counts = counts[self._mask]
        rows, hits = float(counts.sum()), float(counts @ self._label)
        selected, found = float(counts @ self._selected), float(counts @ (self._selected * self._label))
        return {
            "base_rate": _share(hits, rows),
            "selection_rate": _share(selected, rows),
            "true_positive_rate": _share(found, hits),
            "false_positive_rate": _share(selected - found, rows - hits),
            "auc": self._ranked.auc(counts),
        }


class _Measured:
    """A group's rows of a regression."""

    def __init__(self, label: Array, score: Array, _threshold: float, mask: Mask) -> None:
        self._mask = mask
        self._label = label[mask]
        self._error = score[mask] - self._label

    def measure(self, counts: Counts) -> dict[str, float]:
        counts = counts[self._mask]
        rows = float(counts.sum())
        return {
            "mean_label": _share(float(counts @ self._label), rows),
            "mean_error": _share(float(counts @ self._error), rows),
            "mae": _share(float(counts @ np.abs(self._error)), rows),
        }


class _Classified:
    """A group's rows of a problem with several classes."""

    def __init__(self, label: Array, score: Array, _threshold: float, mask: Mask) -> None:
        self._mask = mask
        self._right = score[mask].argmax(axis=1) == label[mask]

    def measure(self, counts: Counts) -> dict[str, float]:
        counts = counts[self._mask]
        return {"accuracy": _share(float(counts @ self._right), float(counts.sum()))}


_PARTS: Mapping[Problem, type[_Decided | _Measured | _Classified]] = {
    "binary": _Decided,
    "regression": _Measured,
    "multiclass": _Classified,
}


def _differences(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    def gap(name: str) -> float:
        values = [group[name] for group in measured]
        return max(values) - min(values) if not np.isnan(values).any() else float("nan")

    if "accuracy" in measured[0]:
        return {"accuracy_difference": gap("accuracy")}
    if "mae" in measured[0]:
        return {"mean_error_difference": gap("mean_error"), "mae_difference": gap("mae")}
    rates = [group["selection_rate"] for group in measured]
    return {
        "demographic_parity_difference": gap("selection_rate"),
        "demographic_parity_ratio": _share(min(rates), max(rates)),
        "equal_opportunity_difference": gap("true_positive_rate"),
        "equalized_odds_difference": max(gap("true_positive_rate"), gap("false_positive_rate")),
        "auc_difference": gap("auc"),
    }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _named(metric: MetricValue, where: str) -> MetricValue:
    return MetricValue(metric.name + where, metric.value, metric.lower, metric.upper)
