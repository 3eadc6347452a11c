"""Features by entity keys, from the features service.

Small requests that ask for the same while a lookup is under way wait for it and then go together: under load one call
answers many of them, and without load nobody waits. Each still gets its own rows, its own error and its own deadline.
"""

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt

from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.features.v1.features_service_pb2 import GetOnlineFeaturesRequest
from lineal.api.features.v1.features_service_pb2_grpc import FeaturesServiceStub
from lineal.api.tabular.v1.column_pb2 import Column
from tabular.columns import concatenated, to_numpy

# A request with more rows goes alone, and so many go together at most.
_SMALL_ROWS = 16
_TOGETHER = 64


class EntityKeyMissing(InvalidArgument):
    """A request brings neither a feature nor the entity key to look it up."""


@dataclass(frozen=True)
class LookedUp:
    """Looked-up columns by name, the status bytes of each, and the log position that they had applied."""

    values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    statuses: Mapping[str, bytes] = field(default_factory=dict)
    position: int = 0

    def rows(self, start: int, end: int) -> "LookedUp":
        """Return some of the rows."""
        return LookedUp(
            {name: values[start:end] for name, values in self.values.items()},
            {name: status[start:end] for name, status in self.statuses.items()},
            self.position,
        )


NOTHING = LookedUp()


@dataclass(frozen=True)
class _Question:
    """What has to be the same for requests to go together; an entity's column has one type."""

    feature_set: str
    version: str
    entity_columns: tuple[str, ...]
    types: tuple[str | None, ...]
    min_position: int


@dataclass(frozen=True)
class _Waiting:
    entities: Sequence[Column]
    cutoff_micros: npt.NDArray[np.int64]
    answer: "asyncio.Future[LookedUp]"
    # Its deadline, its trace and on whose behalf it acts.
    context: contextvars.Context


class Lookups:
    """The adapter over the features service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = FeaturesServiceStub(channel)
        self._waiting: dict[_Question, list[_Waiting]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def get(
        self,
        feature_set: str,
        version: str,
        entity_columns: Sequence[str],
        given: Mapping[str, Column],
        cutoff_micros: npt.NDArray[np.int64],
        min_position: int,
    ) -> LookedUp:
        """Return the view features of a feature set as of each row's cut-off.

        `cutoff_micros` has shape (rows,). Raises EntityKeyMissing; errors of the features service pass through.
        """
        missing = [name for name in entity_columns if name not in given]
        if missing:
            raise EntityKeyMissing(
                f"features are looked up by {', '.join(entity_columns)}; {', '.join(missing)} is missing",
                [FieldViolation(f"columns[{name}]", "send the entity key, or all features") for name in missing],
            )
        entities = [given[name] for name in entity_columns]
        types = tuple(column.WhichOneof("values") for column in entities)
        question = _Question(feature_set, version, tuple(entity_columns), types, min_position)
        if len(cutoff_micros) > _SMALL_ROWS:
            return await self._ask(question, entities, cutoff_micros)
        if question in self._waiting:
            answer: asyncio.Future[LookedUp] = asyncio.get_running_loop().create_future()
            self._waiting[question].append(_Waiting(entities, cutoff_micros, answer, contextvars.copy_context()))
            return await answer
        self._waiting[question] = []
        try:
            return await self._ask(question, entities, cutoff_micros)
        finally:
            self._go_on(question)

    def _go_on(self, question: _Question) -> None:
        # Those whose callers have given up meanwhile are not asked for.
        waiting = [one for one in self._waiting.pop(question) if not one.answer.done()]
        if waiting:
            self._waiting[question] = waiting[_TOGETHER:]
            self._start(question, waiting[:_TOGETHER])

    def _start(self, question: _Question, together: list[_Waiting]) -> None:
        # The call is the first one's: its trace has the span, and its deadline holds.
        call = together[0].context.run(asyncio.create_task, self._answer(question, together))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _answer(self, question: _Question, together: list[_Waiting]) -> None:
        try:
            await self._answer_all(question, together)
        finally:
            self._go_on(question)

    async def _answer_all(self, question: _Question, together: list[_Waiting]) -> None:
        columns = [concatenated(list(same)) for same in zip(*(one.entities for one in together), strict=True)]
        try:
            found = await self._ask(question, columns, np.concatenate([one.cutoff_micros for one in together]))
        except Exception as error:
            if len(together) == 1:
                _fail(together[0], error)
                return
            # Whose fault it was, and whose deadline, shows when each one asks alone.
            await asyncio.gather(
                *(one.context.run(asyncio.create_task, self._answer_all(question, [one])) for one in together)
            )
            return
        start = 0
        for one in together:
            end = start + len(one.cutoff_micros)
            if not one.answer.done():
                one.answer.set_result(found.rows(start, end))
            start = end

    async def _ask(
        self, question: _Question, entities: Sequence[Column], cutoff_micros: npt.NDArray[np.int64]
    ) -> LookedUp:
        response = await self._stub.GetOnlineFeatures(
            GetOnlineFeaturesRequest(
                feature_set=question.feature_set,
                feature_set_version=question.version,
                entities=entities,
                cutoff_micros=cutoff_micros.tolist(),
                min_position=question.min_position,
            )
        )
        return LookedUp(
            {column.name: to_numpy(column) for column in response.columns},
            {column.name: status for column, status in zip(response.columns, response.statuses, strict=True)},
            response.position,
        )


def _fail(one: _Waiting, error: Exception) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)
