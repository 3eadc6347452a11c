"""Lookups that go together: each request gets its own rows, its own error and its own deadline."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from lineal.api.features.v1 import features_service_pb2 as api
from lineal.api.tabular.v1.column_pb2 import Column
from services.serving.lookups import LookedUp, Lookups
from tabular.columns import from_numpy, to_numpy


class Doubling:
    """Answers twice the number, held back until told; refuses 13."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.go = asyncio.Event()

    async def answer(self, request: api.GetOnlineFeaturesRequest, context: Any) -> Any:
        numbers = to_numpy(request.entities[0])
        self.calls.append(len(numbers))
        await self.go.wait()
        if 13 in numbers:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "13 is refused")
        answer = api.GetOnlineFeaturesResponse(position=request.min_position)
        answer.columns.append(from_numpy("twice", 2.0 * numbers))
        answer.columns.append(from_numpy("text", np.array([f"n{number:g}" for number in numbers], dtype=object)))
        answer.statuses.extend([bytes(range(len(numbers)))] * 2)
        return answer


@pytest.fixture
async def features() -> AsyncIterator[tuple[Doubling, Lookups]]:
    server = grpc.aio.server()
    servicer = Doubling()
    method = grpc.unary_unary_rpc_method_handler(
        servicer.answer, api.GetOnlineFeaturesRequest.FromString, api.GetOnlineFeaturesResponse.SerializeToString
    )
    service = "lineal.api.features.v1.FeaturesService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"GetOnlineFeatures": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, Lookups(channel)
    await server.stop(0)


async def _ask(lookups: Lookups, *numbers: float, min_position: int = 0) -> LookedUp:
    given: dict[str, Column] = {"number": from_numpy("number", np.array(numbers, dtype=np.float64))}
    return await lookups.get("set", "v", ["number"], given, np.zeros(len(numbers), dtype=np.int64), min_position)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_those_that_wait_go_together_and_get_their_own_rows(features: tuple[Doubling, Lookups]) -> None:
    servicer, lookups = features
    first = asyncio.create_task(_ask(lookups, 1))
    await _until(lambda: servicer.calls)
    others = [asyncio.create_task(_ask(lookups, n, n + 0.5)) for n in range(2, 7)]
    await asyncio.sleep(0)
    servicer.go.set()
    assert (await first).values["twice"].tolist() == [2]
    for n, other in zip(range(2, 7), others, strict=True):
        found = await other
        assert found.values["twice"].tolist() == [2 * n, 2 * n + 1]
        assert found.values["text"].tolist() == [f"n{n}", f"n{n + 0.5}"]
        assert len(found.statuses["twice"]) == 2
    assert servicer.calls == [1, 10]


async def test_null_keys_keep_their_places(features: tuple[Doubling, Lookups]) -> None:
    servicer, lookups = features
    first = asyncio.create_task(_ask(lookups, 1))
    await _until(lambda: servicer.calls)
    others = [asyncio.create_task(_ask(lookups, *numbers)) for numbers in ((5, np.nan), (np.nan,), (6,))]
    await asyncio.sleep(0)
    servicer.go.set()
    await first
    found = [(await other).values["twice"] for other in others]
    np.testing.assert_array_equal(np.concatenate(found), [10, np.nan, np.nan, 12])
    assert servicer.calls == [1, 4]


async def test_one_that_is_refused_harms_no_other(features: tuple[Doubling, Lookups]) -> None:
    servicer, lookups = features
    first = asyncio.create_task(_ask(lookups, 1))
    await _until(lambda: servicer.calls)
    others = [asyncio.create_task(_ask(lookups, n)) for n in (12, 13, 14)]
    await asyncio.sleep(0)
    servicer.go.set()
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert isinstance(answers[2], grpc.aio.AioRpcError)
    assert [a.values["twice"].tolist() for a in answers if isinstance(a, LookedUp)] == [[2], [24], [28]]


async def test_who_wants_newer_features_keeps_nobody_waiting(features: tuple[Doubling, Lookups]) -> None:
    servicer, lookups = features
    asks = [asyncio.create_task(_ask(lookups, n, min_position=n)) for n in (1, 2, 3)]
    await _until(lambda: len(servicer.calls) == 3)
    servicer.go.set()
    assert [(await ask).position for ask in asks] == [1, 2, 3]


async def test_one_that_gives_up_harms_no_other(features: tuple[Doubling, Lookups]) -> None:
    servicer, lookups = features
    first = asyncio.create_task(_ask(lookups, 1))
    await _until(lambda: servicer.calls)
    given_up, other = asyncio.create_task(_ask(lookups, 2)), asyncio.create_task(_ask(lookups, 3))
    await asyncio.sleep(0)
    first.cancel()
    given_up.cancel()
    servicer.go.set()
    assert (await other).values["twice"].tolist() == [6]
    assert servicer.calls == [1, 1]
