"""Metrics with bootstrap intervals, on rows that several bundles have scored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tabular.bundle import MetricValue, Problem

Array = npt.NDArray[np.float64]
# How often each row is in a resample, in the order of the table.
Counts = npt.NDArray[np.int64]
_RESAMPLES = 200
_SEED = 20_130_101
_BINS = 10
_EPSILON = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Resampling:
    """Bootstrap resamples of so many rows: the same for every bundle, so that differences are paired."""

    rows: int

    def counts(self) -> Iterator[Counts]:
        """Draw one resample after the other, always the same ones."""
        generator = np.random.default_rng(_SEED)
        for _ in range(_RESAMPLES):
            yield np.bincount(generator.integers(0, self.rows, size=self.rows), minlength=self.rows)


def metrics(problem: Problem, label: Array, score: Array, resampling: Resampling) -> tuple[list[MetricValue], "Draws"]:
    """Return each metric with its 95 % percentile interval (Efron 1979), and its draws for paired differences.

    The score has a column per class where there are several.
    """
    # One sort serves every resample: a resample is how often each row counts.
    scored = _SCORED[problem](label, score)
    values = scored.measure(np.ones(len(label), dtype=np.int64))
    drawn = [scored.measure(counts) for counts in resampling.counts()]
    draws = {name: (value, np.array([draw[name] for draw in drawn])) for name, value in values.items()}
    return [interval(name, *draw) for name, draw in draws.items()], draws


Draws = Mapping[str, tuple[float, Array]]


def difference(candidate: Draws, other: Draws) -> list[MetricValue]:
    """Return candidate minus other per metric, the interval over paired resamples."""
    return [
        interval(name, value - other[name][0], drawn - other[name][1])
        for name, (value, drawn) in candidate.items()
        if name in other
    ]


def expected_calibration_error(label: Array, score: Array) -> float:
    """Return the mean distance of score and outcome over ten bins of equal count (Naeini et al. 2015)."""
    order = np.argsort(score, kind="stable")
    return _calibration_error(label[order], score[order])


class _Numbers:
    """A regression's rows."""

    def __init__(self, label: Array, score: Array) -> None:
        self._distance = np.abs(score - label)
        self._square = self._distance**2

    def measure(self, counts: Counts) -> dict[str, float]:
        rows = counts.sum()
        return {
            "rmse": float(np.sqrt(counts @ self._square / rows)),
            "mae": float(counts @ self._distance / rows),
        }


class Ranked:
    """A classification's rows by ascending score; equal scores form a group."""

    def __init__(self, label: Array, score: Array) -> None:
        self._order = np.argsort(score, kind="stable")
        self._label, self._score = label[self._order], score[self._order]
        self._groups = np.flatnonzero(np.r_[True, np.diff(self._score) > 0])
        self._square = (self._score - self._label) ** 2
        likely = np.clip(np.where(self._label > 0, self._score, 1 - self._score), _EPSILON, 1.0)
        self._surprise = -np.log(likely)

    def measure(self, counts: Counts) -> dict[str, float]:
        """Return the metrics of a resample."""
        counts = counts[self._order]
        rows = counts.sum()
        hits, others = self._outcomes(counts)
        numbers = np.repeat(np.arange(len(counts)), counts)
        return {
            "auc": _auc(hits, others),
            "average_precision": _average_precision(hits[::-1], others[::-1]),
            "brier": float(counts @ self._square / rows),
            "log_loss": float(counts @ self._surprise / rows),
            "ece": _calibration_error(self._label[numbers], self._score[numbers]),
        }

    def auc(self, counts: Counts) -> float:
        """Return the area under the ROC curve of a resample."""
        return _auc(*self._outcomes(counts[self._order]))

    def _outcomes(self, counts: Counts) -> tuple[Array, Array]:
        """Return how many hits and how many others each score has."""
        hits = np.add.reduceat(counts * self._label, self._groups)
        return hits, np.add.reduceat(counts, self._groups) - hits


class _Classes:
    """Rows of a problem with several classes; `score` has a column for each."""

    def __init__(self, label: Array, score: Array) -> None:
        number = label.astype(np.int64)
        truth = np.eye(score.shape[1])[number]
        self._right = (score.argmax(axis=1) == number).astype(np.float64)
        # Half the sum over classes: in the range of a binary Brier score, and equal to it where there are two.
        self._square = np.square(score - truth).sum(axis=1) / 2
        self._surprise = -np.log(np.clip(score[np.arange(len(number)), number], _EPSILON, 1.0))
        self._ranked = [Ranked(truth[:, each], score[:, each]) for each in range(score.shape[1])]

    def measure(self, counts: Counts) -> dict[str, float]:
        rows = counts.sum()
        # Of each class against the others; one that no row has, or every row, says nothing.
        areas = np.array([ranked.auc(counts) for ranked in self._ranked])
        known = areas[~np.isnan(areas)]
        return {
            "accuracy": float(counts @ self._right / rows),
            "auc": float(known.mean()) if len(known) else float("nan"),
            "brier": float(counts @ self._square / rows),
            "log_loss": float(counts @ self._surprise / rows),
        }


_SCORED: Mapping[Problem, type[Ranked | _Numbers | _Classes]] = {
    "binary": Ranked,
    "regression": _Numbers,
    "multiclass": _Classes,
}


def _auc(hits: Array, others: Array) -> float:
    """Return the share of (hit, other) pairs in the right order, equal scores as half (Mann and Whitney 1947)."""
    pairs = hits.sum() * others.sum()
    # A resample of few rows may hold one class only; then ranking says nothing.
    return float(hits @ (np.cumsum(others) - others / 2) / pairs) if pairs else float("nan")


def _average_precision(hits: Array, others: Array) -> float:
    """Return precision averaged over the recall gained, group by group from the highest score down."""
    found = np.cumsum(hits)
    if not found[-1]:
        return 0.0
    asked = found + np.cumsum(others)
    precision = np.divide(found, asked, out=np.zeros_like(found), where=asked > 0)
    return float(hits @ precision / found[-1])


def _calibration_error(label: Array, score: Array) -> float:
    """Return the expected calibration error of rows by ascending score."""
    rows = len(score)
    bins = min(_BINS, rows)
    # As numpy.array_split cuts: the first bins are one longer.
    sizes = np.full(bins, rows // bins) + (np.arange(bins) < rows % bins)
    return float(np.abs(np.add.reduceat(label - score, np.cumsum(sizes) - sizes)).sum() / rows)


def interval(name: str, value: float, drawn: Array) -> MetricValue:
    """Return a metric with its 95 % percentile interval over draws; those that are NaN say nothing."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return MetricValue(name, value, float("nan"), float("nan"))
    lower, upper = np.quantile(known, [0.025, 0.975])
    return MetricValue(name, value, float(lower), float(upper))
