"""Counterfactuals: what would have changed the decision of a row."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chassis.errors import RuleViolated
from lineal.api.registry.v1.explanation_pb2 import ExplanationPolicy
from lineal.api.serving.v1.serving_service_pb2 import ColumnChange, Counterfactual, FindCounterfactualsResponse
from services.serving.altering import Altering
from services.serving.options import options_of
from services.serving.policies import ReviewedPolicy
from services.serving.population import Population
from services.serving.request import Request
from services.serving.scored import Scored
from services.serving.search import Changes, Option, Search
from tabular.scorer import Scorer

# Scored in one go: predictions of other threads wait for the interpreter meanwhile, a millisecond or two.
_TOGETHER = 128


class NothingToChange(RuleViolated):
    """A model decides nothing that has an other side."""


class PolicyNotReviewed(RuleViolated):
    """A model has no reviewed explanation policy that says what may be changed."""


class PopulationMissing(RuleViolated):
    """A bundle has no sample of the rows that it was fitted on."""


@dataclass(frozen=True)
class Found:
    """What a search has found: `response` without the counterfactuals, which `again` asks for as any client would."""

    response: FindCounterfactualsResponse
    changes: list[Changes]
    again: Request | None


def may_be_changed(scored: Scored, reviewed: ReviewedPolicy | None) -> ReviewedPolicy:
    """Return the policy that says what may be changed. Raises PolicyNotReviewed, NothingToChange."""
    bundle = scored.scorer.bundle
    if reviewed is None:
        raise PolicyNotReviewed(
            f"model {bundle.model!r} has no reviewed explanations that say what may be changed; `lineal review "
            f"{bundle.model}` shows what is declared"
        )
    if bundle.problem != "binary":
        raise NothingToChange(
            f"bundle {scored.arm.bundle_digest[:12]} does not decide between two sides, so nothing changes its decision"
        )
    return reviewed


def find(scored: Scored, request: Request, population: Population | None, reviewed: ReviewedPolicy, most: int) -> Found:
    """Search for what would have changed the decision of a row. Raises PopulationMissing, RowsInvalid."""
    scorer, policy = scored.scorer, reviewed.policy
    if population is None:
        raise PopulationMissing(
            f"bundle {scored.arm.bundle_digest[:12]} was imported, so there are no rows to take values from; train it "
            "with a run"
        )
    altering = Altering(scored, request, _constrained(policy))
    decided = int(scorer.decide(scored.scores.calibrated)[0])
    # A transform's borders are others than those of the columns that it takes.
    borders = {name: at for name, at in scorer.borders().items() if name not in altering.fed}
    columns, values = scorer.bundle.columns, population.vectors
    options = options_of(columns, scored.vectors, values, borders, policy, altering.fixed)
    search = Search(options, lambda changes: _score(scorer, altering, decided, changes))
    changes = search.run(most)
    response = FindCounterfactualsResponse(
        bundle_digest=scored.arm.bundle_digest,
        policy_digest=reviewed.digest,
        population_digest=population.digest,
        score=float(scored.scores.answered[0]),
        decision=decided,
        scored_rows=search.scored,
        exhausted=search.exhausted,
    )
    again = altering.request(request, changes, scored.arm.bundle_digest) if changes else None
    return Found(response, changes, again)


def proven(scored: Scored, again: Scored, changes: Sequence[Changes]) -> Iterator[Counterfactual]:
    """Yield the changes with which the decision was another one when it was asked for."""
    before = scored.scorer.decide(scored.scores.calibrated)[0]
    decisions = again.scorer.decide(again.scores.calibrated).tolist()
    for each, decision, score in zip(changes, decisions, again.scores.answered.tolist(), strict=True):
        if decision != before:
            yield Counterfactual(
                changes=[_change_of(scored, option) for option in each], score=score, decision=decision
            )


def _constrained(policy: ExplanationPolicy) -> set[str]:
    return {*policy.immutable_columns, *policy.growing_columns, *policy.falling_columns}


def _score(
    scorer: Scorer, altering: Altering, decided: int, changes: Sequence[Changes]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    near, flips = [], []
    for start in range(0, len(changes), _TOGETHER):
        scores = scorer.score(altering.vectors(changes[start : start + _TOGETHER]))
        # Decided for 1 by high scores, so that a row of 0 comes nearer with them.
        near.append(scores.raw * (-1 if decided else 1))
        flips.append(scorer.decide(scores.calibrated) != decided)
    return np.concatenate(near), np.concatenate(flips)


def _change_of(scored: Scored, option: Option) -> ColumnChange:
    """Return a change as it is answered."""
    bundle = scored.scorer.bundle
    column = bundle.columns[option.column]
    found = ColumnChange(column=column.name, distance=option.distance)
    if isinstance(option.value, str):
        found.new_text = option.value
        if text := scored.vectors.categorical[0, bundle.categorical.index(column.name)]:
            found.old_text = text
    else:
        found.new_number = option.value
        number = float(scored.vectors.numeric[0, bundle.numeric.index(column.name)])
        if not math.isnan(number):
            found.old_number = number
    return found
