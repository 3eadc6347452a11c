"""Lineage through its RPCs."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from chassis.records import to_timestamp
from chassis.server import RunningServer, start
from lineal.api.lineage.v1.lineage_service_pb2 import (
    AppendEventsRequest,
    AppendEventsResponse,
    GetEventRequest,
    GetHeadRequest,
    ListEventsRequest,
    ListEventsResponse,
    SubscribeRequest,
)
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.record_pb2 import EventFilter, EventRecord
from services.lineage.server import build
from services.lineage.settings import Settings


@pytest.fixture(params=["sqlite", "postgres"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunningServer]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    settings = Settings(port=0, data_dir=tmp_path, database_url=url, max_event_bytes=1000, max_pending_appends=4)
    async with start("lineage", settings, build) as running:
        yield running


@pytest.fixture
async def stub(server: RunningServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield LineageServiceStub(channel)


def request(stream: str, *types: str) -> AppendEventsRequest:
    made = AppendEventsRequest(request_id=str(uuid.uuid4()), stream=stream)
    for type_ in types:
        made.events.add(event_id=str(uuid.uuid4()), type=type_, payload=b"x")
    return made


def shown(response: ListEventsResponse) -> list[int]:
    return [EventRecord.FromString(stored.record).position for stored in response.records]


async def test_an_event_is_found_by_position_and_by_id(stub: Any) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    appended: AppendEventsResponse = await stub.AppendEvents(
        request("a/1", "t.A", "t.B"), metadata=[("traceparent", trace)]
    )
    by_position = await stub.GetEvent(GetEventRequest(position=2))
    by_id = await stub.GetEvent(GetEventRequest(event_id=appended.events[1].event_id))
    assert by_position == by_id
    record = EventRecord.FromString(by_id.record.record)
    assert (record.type, record.revision) == ("t.B", 2)
    assert record.traceparent == trace
    for wrong, code in [
        (GetEventRequest(position=9), grpc.StatusCode.NOT_FOUND),
        (GetEventRequest(event_id=str(uuid.uuid4())), grpc.StatusCode.NOT_FOUND),
        (GetEventRequest(event_id="x"), grpc.StatusCode.INVALID_ARGUMENT),
        (GetEventRequest(), grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetEvent(wrong)
        assert raised.value.code() is code


async def test_events_are_listed_page_by_page_both_ways(stub: Any) -> None:
    for n in range(5):
        await stub.AppendEvents(request(f"{'ab'[n % 2]}/1", "t.A", "t.B"))

    async def pages(**asked: Any) -> list[list[int]]:
        found: list[list[int]] = []
        token = ""
        while not found or token:
            response = await stub.ListEvents(ListEventsRequest(page_token=token, **asked))
            found.append(shown(response))
            token = response.next_page_token
        return found

    assert await pages(page_size=4) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert await pages(page_size=4, newest_first=True) == [[10, 9, 8, 7], [6, 5, 4, 3], [2, 1]]
    assert await pages(page_size=4, newest_first=True, after_position=7) == [[10, 9, 8]]
    a = EventFilter(stream_prefixes=["a/"], types=["t.B"])
    assert await pages(filter=a, page_size=2) == [[2, 6], [10]]
    assert await pages(filter=a, page_size=2, newest_first=True) == [[10, 6], [2]]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ListEvents(ListEventsRequest(page_token="nonsense"))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_events_are_listed_as_of_a_time(stub: Any) -> None:
    await stub.AppendEvents(request("a/1", "t.A"))
    between = to_timestamp(datetime.now(UTC))
    await stub.AppendEvents(request("a/1", "t.A"))
    for newest_first in (False, True):
        asked = ListEventsRequest(recorded_until_time=between, newest_first=newest_first)
        assert shown(await stub.ListEvents(asked)) == [1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.ClearField("stream"), "stream"),
        (lambda r: setattr(r, "stream", "s" * 513), "stream"),
        (lambda r: setattr(r, "request_id", "x"), "request_id"),
        (lambda r: r.ClearField("events"), "events"),
        (lambda r: r.events.append(r.events[0]), "events"),
        (lambda r: setattr(r.events[0], "event_id", ""), "events[0].event_id"),
        (lambda r: setattr(r.events[0], "type", ""), "events[0].type"),
        (lambda r: setattr(r.events[0], "payload", bytes(1001)), "events[0].payload"),
    ],
)
async def test_an_append_that_cannot_be_right_names_the_field(stub: Any, change: Any, field: str) -> None:
    from chassis.errors import InvalidArgument
    from chassis.statuses import error_of

    wrong = request("a/1", "t.A")
    change(wrong)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.AppendEvents(wrong)
    meant = error_of(raised.value)
    assert isinstance(meant, InvalidArgument)
    assert field in {violation.field for violation in meant.violations}


async def test_more_appends_than_can_wait_are_refused_and_the_others_are_there(stub: Any) -> None:
    results = await asyncio.gather(
        *(stub.AppendEvents(request(f"a/{n}", "t.A")) for n in range(50)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert all(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for error in refused)
    assert (await stub.GetHead(GetHeadRequest())).position == len(results) - len(refused)


async def test_a_subscriber_who_is_ahead_of_the_log_is_told(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in stub.Subscribe(SubscribeRequest(after_position=5)):
            pass
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "ends at 0" in str(raised.value.details())


async def test_a_subscriber_does_not_hold_up_the_end_of_the_service(tmp_path: Path) -> None:
    async with start("lineage", Settings(port=0, data_dir=tmp_path), build) as running:
        channel = grpc.aio.insecure_channel(running.address)
        stub: Any = LineageServiceStub(channel)
        stream = stub.Subscribe(SubscribeRequest())
        await stream.read()
        ended = asyncio.create_task(stream.read())
    async with asyncio.timeout(3):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ended
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await channel.close()
