"""Drift of a period against a bundle's reference: significance under a false-discovery rate, and effect.

A test alone cries wolf: with rows enough every difference is significant. A column has drifted when its p-value passes
Benjamini and Hochberg's procedure (1995) over all columns of the period and its effect reaches the policy's least.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lineal.api.monitor.v1.report_pb2 import DriftFinding, DriftSubject

Numbers = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]
_BINS = 10
_RARE = 1e-4
# Below so many values on either side a test says nothing.
_LEAST_VALUES = 20


class Detector(Protocol):
    """Two-sample tests; each returns statistic and p-value."""

    name: str

    def numeric(self, reference: Numbers, current: Numbers) -> tuple[float, float]:
        """Test whether two samples of numbers come from one distribution (Kolmogorov-Smirnov); no NaN."""
        ...

    def categorical(self, reference: Texts, current: Texts) -> tuple[float, float]:
        """Test whether two samples of categories come from one distribution (chi-squared)."""
        ...


@dataclass(frozen=True)
class Sample:
    """Columns of rows: numbers with NaN for null, categories with the empty text for null, and the scores."""

    numeric: Mapping[str, Numbers]
    categorical: Mapping[str, Texts]
    score: Numbers


def examine(
    detector: Detector,
    reference: Sample,
    current: Sample,
    *,
    ignored: Sequence[str],
    false_discovery_rate: float,
    min_effect: float,
) -> list[DriftFinding]:
    """Test every column, its missing values and the scores; return the findings in order of effect."""
    found: list[DriftFinding] = []
    for name, before in reference.numeric.items():
        if name in ignored or name not in current.numeric:
            continue
        after = current.numeric[name]
        found += _numeric(detector, name, before, after, DriftSubject.DRIFT_SUBJECT_NUMERIC)
        found += _missing(detector, name, np.isnan(before), np.isnan(after))
    for name, texts in reference.categorical.items():
        if name in ignored or name not in current.categorical:
            continue
        found += _categorical(detector, name, texts, current.categorical[name])
    found += _numeric(detector, "score", reference.score, current.score, DriftSubject.DRIFT_SUBJECT_SCORE)
    significant = discoveries(np.array([finding.p_value for finding in found]), false_discovery_rate)
    for finding, passes in zip(found, significant, strict=True):
        finding.drifted = bool(passes) and finding.effect >= min_effect
    return sorted(found, key=lambda finding: -finding.effect)


def discoveries(p_values: Numbers, rate: float) -> npt.NDArray[np.bool_]:
    """Return which p-values pass Benjamini and Hochberg's step-up procedure at a false-discovery rate."""
    count = len(p_values)
    if not count:
        return np.zeros(0, dtype=bool)
    order = np.argsort(p_values, kind="stable")
    passing = np.flatnonzero(p_values[order] <= rate * np.arange(1, count + 1) / count)
    result = np.zeros(count, dtype=bool)
    if len(passing):
        result[order[: passing[-1] + 1]] = True
    return result


def stability_index(before: Numbers, after: Numbers) -> float:
    """Return the population stability index of two vectors of counts over the same bins.

    Shares of rare bins are held above 0.0001, which bounds what one empty bin can add.
    """
    p = np.maximum(before / before.sum(), _RARE)
    q = np.maximum(after / after.sum(), _RARE)
    return float(np.sum((q - p) * np.log(q / p)))


def _numeric(
    detector: Detector, name: str, before: Numbers, after: Numbers, subject: "DriftSubject.ValueType"
) -> list[DriftFinding]:
    before, after = before[~np.isnan(before)], after[~np.isnan(after)]
    if min(len(before), len(after)) < _LEAST_VALUES:
        return []
    statistic, p_value = detector.numeric(before, after)
    # Tenths of the reference; a value that fills several of them makes fewer bins.
    edges = np.unique(np.quantile(before, np.linspace(0, 1, _BINS + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, part, side="left"), minlength=len(edges) + 1).astype(float)
        for part in (before, after)
    ]
    return [
        DriftFinding(
            column=name, subject=subject, statistic=statistic, p_value=p_value, effect=stability_index(*counts)
        )
    ]


def _categorical(detector: Detector, name: str, before: Texts, after: Texts) -> list[DriftFinding]:
    if min(len(before), len(after)) < _LEAST_VALUES:
        return []
    names = sorted(set(before.tolist()) | set(after.tolist()))
    if len(names) < 2:
        return []
    codes = {text: code for code, text in enumerate(names)}
    counts = [
        np.bincount([codes[text] for text in part.tolist()], minlength=len(names)).astype(float)
        for part in (before, after)
    ]
    statistic, p_value = detector.categorical(before, after)
    return [
        DriftFinding(
            column=name,
            subject=DriftSubject.DRIFT_SUBJECT_CATEGORICAL,
            statistic=statistic,
            p_value=p_value,
            effect=stability_index(*counts),
        )
    ]


def _missing(
    detector: Detector, name: str, before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]
) -> list[DriftFinding]:
    if not before.any() and not after.any():
        return []
    texts = [np.where(part, "missing", "present").astype(object) for part in (before, after)]
    findings = _categorical(detector, name, *texts)
    for finding in findings:
        finding.subject = DriftSubject.DRIFT_SUBJECT_MISSING
    return findings
