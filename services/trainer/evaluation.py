"""Metrics with bootstrap intervals, on rows that several bundles have scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, log_loss, mean_absolute_error, roc_auc_score

from tabular.bundle import MetricValue, Problem

Array = npt.NDArray[np.float64]
_RESAMPLES = 200
_SEED = 20_130_101
_BINS = 10


@dataclass(frozen=True)
class Resampling:
    """Row numbers of bootstrap resamples: the same for every bundle, so that differences are paired."""

    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: int) -> "Resampling":
        """Draw resamples of a table with so many rows, always the same ones."""
        generator = np.random.default_rng(_SEED)
        return cls(generator.integers(0, rows, size=(_RESAMPLES, rows), dtype=np.int64))


def metrics(problem: Problem, label: Array, score: Array, resampling: Resampling) -> tuple[list[MetricValue], "Draws"]:
    """Return each metric with its 95 % percentile interval (Efron 1979), and its draws for paired differences."""
    found, draws = [], {}
    for name, function in _functions(problem).items():
        value = function(label, score)
        drawn = np.array([_safe(function, label[rows], score[rows]) for rows in resampling.rows])
        draws[name] = (value, drawn)
        found.append(_interval(name, value, drawn))
    return found, draws


Draws = Mapping[str, tuple[float, Array]]


def difference(candidate: Draws, other: Draws) -> list[MetricValue]:
    """Return candidate minus other per metric, the interval over paired resamples."""
    return [
        _interval(name, value - other[name][0], drawn - other[name][1])
        for name, (value, drawn) in candidate.items()
        if name in other
    ]


def expected_calibration_error(label: Array, score: Array) -> float:
    """Return the mean distance of score and outcome over ten bins of equal count (Naeini et al. 2015)."""
    order = np.argsort(score, kind="stable")
    bins = np.array_split(order, min(_BINS, len(order)))
    return float(sum(abs(label[rows].mean() - score[rows].mean()) * len(rows) for rows in bins) / len(order))


def _functions(problem: Problem) -> Mapping[str, Callable[[Array, Array], float]]:
    if problem == "regression":
        return {"rmse": _rmse, "mae": lambda label, score: float(mean_absolute_error(label, score))}
    return {
        "auc": _auc,
        "average_precision": lambda label, score: float(average_precision_score(label, score)),
        "brier": _brier,
        "log_loss": lambda label, score: float(log_loss(label, score, labels=[0, 1])),
        "ece": expected_calibration_error,
    }


def _auc(label: Array, score: Array) -> float:
    return float(roc_auc_score(label, score))


def _brier(label: Array, score: Array) -> float:
    return float(np.mean((score - label) ** 2))


def _rmse(label: Array, score: Array) -> float:
    return float(np.sqrt(np.mean((score - label) ** 2)))


def _safe(function: Callable[[Array, Array], float], label: Array, score: Array) -> float:
    # A resample of few rows may hold one class only; then ranking says nothing.
    if label.min() == label.max() and function is _auc:
        return float("nan")
    return function(label, score)


def _interval(name: str, value: float, drawn: Array) -> MetricValue:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return MetricValue(name, value, float("nan"), float("nan"))
    lower, upper = np.quantile(known, [0.025, 0.975])
    return MetricValue(name, value, float(lower), float(upper))
