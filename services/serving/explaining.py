"""Explanations: how much each column moved the score of a row, computed apart from predictions."""

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from chassis.errors import FieldViolation, InvalidArgument, Unavailable
from lineal.api.serving.v1.serving_service_pb2 import Contribution, ExplainResponse, Explanation
from services.serving.predictor import Predictor, Scored
from services.serving.request import Request

MOST_ROWS = 1_000
# Calls that compute or wait; an explanation costs a hundred predictions or more, so more would only wait in vain.
_MOST_CALLS = 8


class TooManyRows(InvalidArgument):
    """More rows are given than are explained in one call."""


class ExplanationsBusy(Unavailable):
    """As many explanations as may wait are waiting."""


class Explainer:
    """Explains rows in one thread of its own, so that predictions keep the other cores."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explanations")
        self._calls = 0

    async def explain(self, request: Request) -> ExplainResponse:
        """Explain the scores of rows. Raises TooManyRows, ExplanationsBusy, and what predicting them raises."""
        if request.rows > MOST_ROWS:
            what = FieldViolation("columns", f"send at most {MOST_ROWS:,} rows at a time")
            raise TooManyRows(f"{request.rows:,} rows are too many for one explanation", [what])
        if self._calls >= _MOST_CALLS:
            raise ExplanationsBusy(f"{self._calls} explanations are under way on this replica; try again")
        self._calls += 1
        try:
            scored = await self._predictor.score(request)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, _explained, scored)
        finally:
            self._calls -= 1

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


def _explained(scored: Scored) -> ExplainResponse:
    response = ExplainResponse(bundle_digest=scored.arm.bundle_digest)
    decisions = scored.scorer.decide(scored.scores.calibrated).tolist()
    raw, score = scored.raw_of(decisions).tolist(), scored.scores.answered.tolist()
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
    return response


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
