"""What every event log keeps to: the real one on both databases, and the fake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chassis.channels import open_service_channel
from chassis.context import Caller, acting_as
from chassis.errors import AlreadyExists, Conflict, InvalidArgument
from chassis.ids import event_id, new_request_id
from chassis.log import Event, EventLog, InMemoryLog, LineageLog
from chassis.server import start
from chassis.telemetry import Telemetry
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, SnapshotCreated
from services.lineage.server import build
from services.lineage.settings import Settings


@asynccontextmanager
async def lineage_log(folder: Path, url: str | None) -> AsyncIterator[EventLog]:
    settings = Settings(port=0, data_dir=folder, database_url=url)
    async with start("lineage", settings, build) as running:
        telemetry = Telemetry("test", None)
        channel = open_service_channel(running.address, service="test", telemetry=telemetry)
        async with channel:
            yield LineageLog(channel)
        telemetry.shutdown()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    async with AsyncExitStack() as stack:
        match request.param:
            case "memory":
                yield InMemoryLog()
            case "sqlite":
                yield await stack.enter_async_context(lineage_log(tmp_path, None))
            case _:
                url = request.getfixturevalue("postgres_url")
                yield await stack.enter_async_context(lineage_log(tmp_path, url))


def batch(name: str) -> BatchAccepted:
    return BatchAccepted(dataset="flights", batch_id=name)


async def append(log: EventLog, stream: str, *names: str) -> int:
    messages = [batch(name) for name in names]
    return (await log.append(stream, messages, request_id=new_request_id(), expected_revision=None)).position


async def read_until(log: EventLog, position: int, after: int = 0, **wanted: object) -> list[Event]:
    events: list[Event] = []
    async with aclosing(log.subscribe(after, **wanted)) as deliveries:  # type: ignore[arg-type]
        async for delivery in deliveries:
            events += delivery.events
            if delivery.examined_position >= position:
                return events
    raise AssertionError("a subscription has no end")


async def test_an_empty_log_has_head_zero(log: EventLog) -> None:
    assert await log.head() == 0
    assert await log.read_stream("batches/flights") == []


async def test_an_append_gives_positions_revisions_and_ids_in_order(log: EventLog) -> None:
    request_id = new_request_id()
    first = await log.append("batches/a", [batch("1"), batch("2")], request_id=request_id, expected_revision=0)
    second = await log.append("batches/b", [batch("3")], request_id=new_request_id(), expected_revision=0)
    assert (first.positions, first.revisions, first.position, first.repeated) == ((1, 2), (1, 2), 2, False)
    assert (second.positions, second.revisions) == ((3,), (1,))
    assert first.event_ids == (event_id(request_id, 1), event_id(request_id, 2))
    assert await log.head() == 3


async def test_an_event_comes_back_as_it_went_in(log: EventLog) -> None:
    request_id = new_request_id()
    happened = datetime(2013, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    before = datetime.now(UTC)
    with acting_as(Caller("person:ada", "correlation", "cause")):
        await log.append("batches/a", [batch("1")], request_id=request_id, expected_revision=None, event_time=happened)
    [event] = await log.read_stream("batches/a")
    assert event.message == batch("1")
    assert (event.position, event.stream, event.revision) == (1, "batches/a", 1)
    assert (event.type, event.request_id) == ("lineal.api.ingest.v1.BatchAccepted", request_id)
    assert (event.actor, event.correlation_id, event.causation_id) == ("person:ada", "correlation", "cause")
    assert event.event_time == happened
    assert before <= event.recorded_time <= datetime.now(UTC)
    assert BatchAccepted.FromString(event.payload) == batch("1")


async def test_events_without_a_time_happened_when_they_were_recorded(log: EventLog) -> None:
    await append(log, "batches/a", "1")
    [event] = await log.read_stream("batches/a")
    assert event.event_time == event.recorded_time


async def test_repeating_a_request_answers_with_its_positions(log: EventLog) -> None:
    request_id = new_request_id()
    first = await log.append("batches/a", [batch("1"), batch("2")], request_id=request_id, expected_revision=0)
    await append(log, "batches/a", "3")
    again = await log.append("batches/a", [batch("1"), batch("2")], request_id=request_id, expected_revision=0)
    assert again.repeated
    assert (again.positions, again.revisions) == (first.positions, first.revisions)
    assert await log.head() == 3


async def test_a_request_id_is_refused_for_other_events(log: EventLog) -> None:
    request_id = new_request_id()
    await log.append("batches/a", [batch("1")], request_id=request_id, expected_revision=None)
    attempts = [("batches/a", [batch("2")]), ("batches/b", [batch("1")]), ("batches/a", [batch("1"), batch("2")])]
    for stream, messages in attempts:
        with pytest.raises(AlreadyExists):
            await log.append(stream, messages, request_id=request_id, expected_revision=None)
    assert await log.head() == 1


async def test_an_append_at_another_revision_is_refused(log: EventLog) -> None:
    await append(log, "batches/a", "1")
    for expected in (0, 2):
        with pytest.raises(Conflict):
            await log.append("batches/a", [batch("x")], request_id=new_request_id(), expected_revision=expected)
    await log.append("batches/a", [batch("2")], request_id=new_request_id(), expected_revision=1)
    assert [event.revision for event in await log.read_stream("batches/a")] == [1, 2]


async def test_an_append_that_makes_no_sense_is_refused(log: EventLog) -> None:
    with pytest.raises(InvalidArgument):
        await log.append("", [batch("1")], request_id=new_request_id(), expected_revision=None)
    with pytest.raises(InvalidArgument):
        await log.append("batches/a", [], request_id=new_request_id(), expected_revision=None)
    with pytest.raises(InvalidArgument):
        await log.append("batches/a", [batch("1")], request_id="nonsense", expected_revision=None)
    assert await log.head() == 0


async def test_a_stream_is_read_after_a_revision_and_up_to_a_limit(log: EventLog) -> None:
    await append(log, "batches/a", *(str(n) for n in range(1, 6)))
    await append(log, "batches/b", "other")
    assert [e.revision for e in await log.read_stream("batches/a", 2)] == [3, 4, 5]
    assert [e.revision for e in await log.read_stream("batches/a", 2, limit=2)] == [3, 4]
    assert await log.read_stream("batches/a", 5) == []


async def test_a_long_stream_is_read_whole(log: EventLog) -> None:
    for _ in range(3):
        await append(log, "batches/a", *(str(n) for n in range(700)))
    assert [e.revision for e in await log.read_stream("batches/a")] == list(range(1, 2101))


async def test_of_concurrent_appends_at_one_revision_one_wins(log: EventLog) -> None:
    async def attempt(n: int) -> bool:
        try:
            await log.append("batches/a", [batch(str(n))], request_id=new_request_id(), expected_revision=0)
        except Conflict:
            return False
        return True

    won = await asyncio.gather(*(attempt(n) for n in range(20)))
    assert won.count(True) == 1
    assert await log.head() == 1


async def test_the_same_request_sent_twice_at_once_is_there_once(log: EventLog) -> None:
    request_id = new_request_id()
    results = await asyncio.gather(
        *(log.append("batches/a", [batch("1")], request_id=request_id, expected_revision=0) for _ in range(10))
    )
    assert {result.positions for result in results} == {(1,)}
    assert sum(not result.repeated for result in results) == 1


async def test_concurrent_writers_leave_no_gap(log: EventLog) -> None:
    await asyncio.gather(*(append(log, f"batches/{n % 7}", *("a" * (n % 3 + 1))) for n in range(60)))
    head = await log.head()
    events = await read_until(log, head)
    assert [event.position for event in events] == list(range(1, head + 1))
    for n in range(7):
        revisions = [event.revision for event in events if event.stream == f"batches/{n}"]
        assert revisions == list(range(1, len(revisions) + 1))
    recorded = [event.recorded_time for event in events]
    assert recorded == sorted(recorded)


async def test_a_subscription_gives_history_then_what_comes_without_a_gap(log: EventLog) -> None:
    await append(log, "batches/a", *(str(n) for n in range(600)))
    seen: list[int] = []
    live = asyncio.Event()

    async def read() -> None:
        async with aclosing(log.subscribe(100)) as deliveries:
            async for delivery in deliveries:
                seen.extend(event.position for event in delivery.events)
                if delivery.live:
                    live.set()
                if delivery.examined_position >= 650:
                    return

    reading = asyncio.create_task(read())
    async with asyncio.timeout(20):
        await live.wait()
        for n in range(50):
            await append(log, "batches/b", str(n))
        await reading
    assert seen == list(range(101, 651))


async def test_a_subscription_is_live_once_it_has_seen_the_history(log: EventLog) -> None:
    async with aclosing(log.subscribe(0)) as deliveries:
        first = await anext(deliveries)
        assert (first.events, first.examined_position, first.live) == ((), 0, True)


async def test_a_subscription_gives_what_was_asked_for_and_says_how_far_it_looked(log: EventLog) -> None:
    made = SnapshotCreated(dataset="flights", snapshot_digest="d")
    await append(log, "batches/a", "1")
    await log.append("dataset/a", [made], request_id=new_request_id(), expected_revision=0)
    head = await append(log, "batches/a", "2")
    by_type = await read_until(log, head, types=[SnapshotCreated])
    by_prefix = await read_until(log, head, prefixes=["batches/"])
    by_both = await read_until(log, head, types=[SnapshotCreated], prefixes=["batches/"])
    assert [event.message for event in by_type] == [made]
    assert [event.position for event in by_prefix] == [1, 3]
    assert by_both == []


async def test_live_events_nobody_asked_for_move_the_examined_position(log: EventLog) -> None:
    async with aclosing(log.subscribe(0, types=[SnapshotCreated])) as deliveries:
        await anext(deliveries)
        position = await append(log, "batches/a", "1")
        delivery = await anext(deliveries)
    assert (delivery.events, delivery.examined_position, delivery.live) == ((), position, True)
