"""Reasons of decisions: contributions against reference rows, told by a reviewed policy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lineal.api.registry.v1.explanation_pb2 import AdverseScores, ExplanationPolicy
from lineal.api.serving.v1.serving_service_pb2 import Reason
from services.serving.population import Population
from tabular.scorer import Scorer

# Enough for means that the weightiest reasons do not hang on; SHAP values of a row cost a hundred scores or more.
_REFERENCE_ROWS = 500
# A sum of contributions that floats may leave of nothing.
_NOISE = 1e-9


@dataclass(frozen=True)
class Reference:
    """What contributions are measured against: their means over `rows` rows, and last what is expected without them.

    Without rows the means are 0, so that contributions are measured against what the model expects.
    """

    digest: str
    rows: int
    contributions: npt.NDArray[np.float64]

    @property
    def raw_score(self) -> float:
        """The mean raw score of the rows."""
        return float(self.contributions.sum())


def reference_of(
    scorer: Scorer, population: Population | None, policy: ExplanationPolicy, expected: float
) -> Reference:
    """Return the reference of a bundle: the rows of its population that it decides favourably, of a regression all.

    `expected` is the raw score that the bundle expects of a row it knows nothing of.
    """
    nothing = np.append(np.zeros(len(scorer.bundle.columns)), expected)
    if population is None:
        return Reference("", 0, nothing)
    decisions = scorer.decide(scorer.score(population.vectors).calibrated)
    chosen = np.flatnonzero(~adverse(policy, decisions) | (scorer.bundle.problem == "regression"))
    if not len(chosen):
        return Reference(population.digest, 0, nothing)
    places = np.linspace(0, len(chosen) - 1, min(len(chosen), _REFERENCE_ROWS)).round().astype(int)
    rows = population.vectors.take(chosen[places])
    return Reference(population.digest, len(rows), scorer.contributions(rows).mean(axis=0))


def adverse(policy: ExplanationPolicy, decisions: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Tell of each decision whether it is adverse."""
    wrong: npt.NDArray[np.bool_] = decisions == (policy.adverse_scores == AdverseScores.ADVERSE_SCORES_HIGH)
    return wrong


def reasons_of(policy: ExplanationPolicy, moved: Mapping[str, float], *, against: bool) -> list[Reason]:
    """Return what moved a score most to a side, the adverse one with `against`: the weightiest first.

    `moved` is the contribution of each column less that in the reference rows.
    """
    raising = against == (policy.adverse_scores == AdverseScores.ADVERSE_SCORES_HIGH)
    sign = 1 if raising else -1
    found = [reason for reason in _told(policy, moved, raising=raising) if sign * reason.contribution > _NOISE]
    found.sort(key=lambda reason: (-sign * reason.contribution, reason.columns[0]))
    return found[: policy.most_reasons]


def _told(policy: ExplanationPolicy, moved: Mapping[str, float], *, raising: bool) -> Iterator[Reason]:
    """Yield each group that has a text for a side, and each other column alone without one."""
    side: Literal["raises", "lowers"] = "raises" if raising else "lowers"
    left = dict(moved)
    for group in policy.reasons:
        # A bundle may have been trained without some columns.
        columns = [name for name in group.columns if name in left]
        if columns and group.HasField(side):
            told = getattr(group, side)
            yield _reason(columns, [left.pop(name) for name in columns], told.code, told.text)
    for name, contribution in left.items():
        yield _reason([name], [contribution])


def _reason(columns: Sequence[str], contributions: Sequence[float], code: str = "", text: str = "") -> Reason:
    return Reason(code=code, text=text, columns=columns, contribution=sum(contributions))
