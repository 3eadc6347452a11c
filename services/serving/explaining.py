"""Explanations, apart from predictions: what moved a score, the reasons to tell, what would have changed it."""

import asyncio
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument, Unavailable
from lineal.api.serving.v1.serving_service_pb2 import (
    Contribution,
    ExplainResponse,
    Explanation,
    FindCounterfactualsResponse,
    ReasonBasis,
)
from services.serving.arms import ArmTable
from services.serving.counterfactuals import find, may_be_changed, proven
from services.serving.policies import ReviewedPolicy
from services.serving.population import population_of
from services.serving.predictor import Predictor
from services.serving.reasons import Reference, adverse, reasons_of, reference_of
from services.serving.request import Request
from services.serving.scored import Scored

T = TypeVar("T")

MOST_ROWS = 1_000
_COUNTERFACTUALS = 3
_MOST_COUNTERFACTUALS = 10
# Calls that compute or wait; an explanation costs a hundred predictions or more, so more would only wait in vain.
_MOST_CALLS = 8
_MOST_REFERENCES = 64


class TooManyRows(InvalidArgument):
    """More is asked for than one call explains."""


class ExplanationsBusy(Unavailable):
    """As many explanations as may wait are waiting."""


class Explainer:
    """Explains rows in one thread of its own, so that predictions keep the other cores."""

    def __init__(self, predictor: Predictor, arms: ArmTable, artifacts: ArtifactStore) -> None:
        self._predictor = predictor
        self._arms = arms
        self._artifacts = artifacts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explanations")
        self._calls = 0
        # By bundle and policy: neither changes, and SHAP values of hundreds of rows take a while.
        self._references: dict[tuple[str, str], Reference] = {}

    async def explain(self, request: Request) -> ExplainResponse:
        """Explain the scores of rows. Raises TooManyRows, ExplanationsBusy, and what predicting them raises."""
        if request.rows > MOST_ROWS:
            what = FieldViolation("columns", f"send at most {MOST_ROWS:,} rows at a time")
            raise TooManyRows(f"{request.rows:,} rows are too many for one explanation", [what])
        with self._call():
            scored = await self._predictor.score(request)
            reviewed = self._arms.policy(request.endpoint)
            return await self._apart(lambda: self._explained(scored, reviewed))

    async def counterfactuals(self, request: Request, most: int) -> FindCounterfactualsResponse:
        """Find what would have changed the decision of a row; at most so many answers, 0 is the usual number.

        Raises TooManyRows, ExplanationsBusy, PolicyNotReviewed, NothingToChange, PopulationMissing, and what predicting
        the row raises.
        """
        if request.rows > 1:
            what = FieldViolation("columns", "send one row")
            raise TooManyRows(f"{request.rows:,} rows are too many for one search", [what])
        if most > _MOST_COUNTERFACTUALS:
            what = FieldViolation("most", f"ask for at most {_MOST_COUNTERFACTUALS}")
            raise TooManyRows(f"{most:,} counterfactuals are too many for one search", [what])
        with self._call():
            scored = await self._predictor.score(request)
            reviewed = may_be_changed(scored, self._arms.policy(request.endpoint))
            found = await self._apart(
                lambda: find(
                    scored,
                    request,
                    population_of(scored.scorer.bundle, self._artifacts),
                    reviewed,
                    most or _COUNTERFACTUALS,
                )
            )
            if found.again is not None:
                # As any client would, features and transforms included.
                again = await self._predictor.score(found.again)
                found.response.counterfactuals.extend(proven(scored, again, found.changes))
            return found.response

    @contextmanager
    def _call(self) -> Iterator[None]:
        if self._calls >= _MOST_CALLS:
            raise ExplanationsBusy(f"{self._calls} explanations are under way on this replica; try again")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _apart(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _explained(self, scored: Scored, reviewed: ReviewedPolicy | None) -> ExplainResponse:
        response = ExplainResponse(bundle_digest=scored.arm.bundle_digest)
        decisions = scored.scorer.decide(scored.scores.calibrated)
        raw, score = scored.raw_of(decisions.tolist()).tolist(), scored.scores.answered.tolist()
        contributions = scored.scorer.contributions(scored.vectors)
        if contributions.ndim > 2:
            # What moved the class that was decided for.
            contributions = contributions[np.arange(len(raw)), decisions]
        for row, (*moved, expected) in enumerate(contributions.tolist()):
            values = list(_values(scored, row))
            for each, contribution in zip(values, moved, strict=True):
                each.contribution = contribution
            response.explanations.append(
                Explanation(
                    expected_raw_score=expected,
                    raw_score=raw[row],
                    score=score[row],
                    contributions=sorted(values, key=lambda each: -abs(each.contribution)),
                )
            )
        if reviewed is None:
            response.without_reasons = "the model has no reviewed explanations; `lineal review` shows what is declared"
        elif scored.scorer.bundle.problem == "multiclass":
            response.without_reasons = "a model of several classes has no adverse side"
        else:
            self._add_reasons(response, scored, reviewed, decisions, contributions)
        return response

    def _add_reasons(
        self,
        response: ExplainResponse,
        scored: Scored,
        reviewed: ReviewedPolicy,
        decisions: npt.NDArray[np.uint32],
        contributions: npt.NDArray[np.float64],
    ) -> None:
        reference = self._reference(scored, reviewed, float(contributions[0, -1]))
        response.basis.CopyFrom(
            ReasonBasis(
                policy_digest=reviewed.digest,
                reviewed_by=reviewed.reviewed_by,
                reference_digest=reference.digest,
                reference_rows=reference.rows,
                reference_raw_score=reference.raw_score,
            )
        )
        names = [column.name for column in scored.scorer.bundle.columns]
        decided = scored.scorer.bundle.problem != "regression"
        against = adverse(reviewed.policy, decisions) | (not decided)
        moved = (contributions - reference.contributions).tolist()
        for explanation, row, wrong in zip(response.explanations, moved, against.tolist(), strict=True):
            explanation.adverse = wrong and decided
            columns = dict(zip(names, row, strict=False))
            explanation.reasons.extend(reasons_of(reviewed.policy, columns, against=wrong))

    def _reference(self, scored: Scored, reviewed: ReviewedPolicy, expected: float) -> Reference:
        key = scored.arm.bundle_digest, reviewed.digest
        if key not in self._references:
            if len(self._references) >= _MOST_REFERENCES:
                self._references.pop(next(iter(self._references)))
            population = population_of(scored.scorer.bundle, self._artifacts)
            self._references[key] = reference_of(scored.scorer, population, reviewed.policy, expected)
        return self._references[key]


def _values(scored: Scored, row: int) -> Iterator[Contribution]:
    """Yield name and value of each column of the bundle; null has no value."""
    numbers, texts = iter(scored.vectors.numeric[row].tolist()), iter(scored.vectors.categorical[row].tolist())
    for column in scored.scorer.bundle.columns:
        found = Contribution(column=column.name)
        if column.type == "categorical":
            if text := next(texts):
                found.text = text
        elif not math.isnan(number := next(numbers)):
            found.number = number
        yield found
