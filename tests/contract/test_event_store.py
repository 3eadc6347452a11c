"""What the store of the log keeps to, on SQLite and on PostgreSQL, below the RPCs; and when all is sealed at once."""

import hashlib
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, update

from chassis.clock import FixedClock
from chassis.errors import AlreadyExists, Conflict, LinealError
from chassis.memory_artifacts import InMemoryArtifactStore
from chassis.records import to_datetime
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, AppendEventsResponse
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.merkle import Node
from services.lineage.appender import Appender, checked
from services.lineage.sealing import write_range
from services.lineage.store import EventStore, Filter
from services.lineage.store_writer import StoreWriter, WriterDeposed, WriterExists
from services.lineage.tables import Stored, log_writer
from services.lineage.tree import Tree

START = datetime(2013, 1, 1, tzinfo=UTC)
ALL = Filter()


class SealingStore(EventStore):
    """A store in which every event is sealed as soon as it is there."""

    def __init__(self, url: str) -> None:
        self._artifacts = InMemoryArtifactStore()
        super().__init__(url, self._artifacts)

    def open_writer(self, wait_seconds: float = 0.0) -> StoreWriter:
        writer = super().open_writer(wait_seconds)
        written = writer.commit

        def commit(records: Sequence[Stored], completed: Sequence[tuple[Node, bytes]]) -> None:
            written(records, completed)
            first = records[0].position
            writer.seal(write_range(self, self._artifacts, first, records[-1].position, 0))

        writer.commit = commit  # type: ignore[method-assign]
        return writer


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture(params=[EventStore, SealingStore])
def store(url: str, request: pytest.FixtureRequest) -> Iterator[EventStore]:
    store = request.param(url)
    yield store
    store.close()


@pytest.fixture
def writer(store: EventStore) -> Iterator[StoreWriter]:
    writer = store.open_writer()
    yield writer
    writer.close()


def new(stream: str, count: int = 1, expected: int | None = None, type_: str = "t.Made") -> AppendEventsRequest:
    request = AppendEventsRequest(request_id=str(uuid.uuid4()), stream=stream, expected_revision=expected)
    for n in range(count):
        request.events.add(event_id=str(uuid.uuid4()), type=type_, payload=f"{n}".encode())
    return request


def append(appender: Appender, *requests: AppendEventsRequest) -> list[AppendEventsResponse | LinealError]:
    return appender.append([checked(request, "", 1_000_000) for request in requests])[0]


def positions(answer: AppendEventsResponse | LinealError) -> list[int]:
    assert isinstance(answer, AppendEventsResponse)
    return [event.position for event in answer.events]


def test_a_group_is_numbered_in_order_and_each_of_it_is_all_or_none(store: EventStore, writer: StoreWriter) -> None:
    appender = Appender(writer, FixedClock(START), Tree(store))
    first, wrong, second = append(appender, new("a", 2, 0), new("a", 3, 7), new("b", 1, 0))
    assert positions(first) == [1, 2]
    assert isinstance(wrong, Conflict)
    assert positions(second) == [3]
    assert (store.head(), store.revision("a"), store.revision("b"), store.revision("c")) == (3, 2, 1, 0)


def test_within_a_group_a_repeat_answers_and_a_clash_is_refused(store: EventStore, writer: StoreWriter) -> None:
    request = new("a", 2)
    clash = AppendEventsRequest.FromString(request.SerializeToString())
    clash.events[1].payload = b"something else"
    first, again, other = append(Appender(writer, FixedClock(START), Tree(store)), request, request, clash)
    assert positions(first) == positions(again) == [1, 2]
    assert isinstance(again, AppendEventsResponse)
    assert again.repeated_request
    assert isinstance(other, AlreadyExists)
    assert store.head() == 2


def test_a_new_writer_goes_on_where_the_last_one_was(store: EventStore) -> None:
    request = new("a", 2)
    for _ in range(2):
        writer = store.open_writer()
        append(Appender(writer, FixedClock(START), Tree(store)), request)
        writer.close()
    writer = store.open_writer()
    appender = Appender(writer, FixedClock(START), Tree(store))
    assert appender.head == 2
    assert positions(append(appender, new("a", 1, 2))[0]) == [3]
    writer.close()


def test_the_hash_is_over_the_stored_bytes(store: EventStore, writer: StoreWriter) -> None:
    append(Appender(writer, FixedClock(START), Tree(store)), new("a", 3))
    for stored in store.read_page(0, 3, ALL, 10).records:
        assert stored.leaf_hash == hashlib.sha256(b"\x00" + stored.record).digest()
        record = EventRecord.FromString(stored.record)
        assert (record.position, record.stream, record.revision) == (stored.position, stored.stream, stored.revision)


def test_recorded_time_never_goes_backwards(store: EventStore, writer: StoreWriter) -> None:
    clock = FixedClock(START)
    appender = Appender(writer, clock, Tree(store))
    append(appender, new("a"))
    clock.advance(timedelta(hours=-1))
    append(appender, new("a"))
    append(Appender(writer, clock, Tree(store)), new("a"))
    records = [EventRecord.FromString(stored.record) for stored in store.read_page(0, 3, ALL, 10).records]
    assert [to_datetime(record.recorded_time) for record in records] == [START] * 3


def test_a_failed_transaction_leaves_nothing_and_the_next_is_numbered_as_if_it_had_not_been(
    store: EventStore, writer: StoreWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender = Appender(writer, FixedClock(START), Tree(store))
    append(appender, new("a"))
    commit = writer.commit
    # The last of them has the position of another.
    monkeypatch.setattr(writer, "commit", lambda records, nodes: commit([*records, records[0]], nodes))
    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.UniqueViolation)):
        append(appender, new("a", 5))
    monkeypatch.undo()
    assert positions(append(appender, new("a", 1, 1))[0]) == [2]
    assert [stored.position for stored in store.read_page(0, 9, ALL, 10).records] == [1, 2]


def test_a_deposed_writer_is_refused_by_the_database(url: str, store: EventStore, writer: StoreWriter) -> None:
    appender = Appender(writer, FixedClock(START), Tree(store))
    append(appender, new("a"))
    # As if somebody had taken over whom the lock did not hold back.
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(update(log_writer).values(epoch=log_writer.c.epoch + 1))
    engine.dispose()
    for _ in range(2):
        with pytest.raises(WriterDeposed):
            append(appender, new("a", 300))
    assert (store.head(), store.node_hashes(8, 0, 1)) == (1, [])


def test_each_writer_has_an_epoch_of_its_own(store: EventStore) -> None:
    epochs = []
    for _ in range(3):
        writer = store.open_writer()
        epochs.append(writer.epoch)
        writer.close()
    assert epochs == [1, 2, 3]


def test_a_repeat_answers_though_its_stream_has_grown(store: EventStore, writer: StoreWriter) -> None:
    appender = Appender(writer, FixedClock(START), Tree(store))
    first, second = new("a", 2, 0), new("a", 2, 2)
    append(appender, first, second)
    again = append(appender, new("b", 1), second, new("a", 1, 2), first, new("a", 1, 4))
    assert [positions(again[n]) for n in (0, 1, 3, 4)] == [[5], [3, 4], [1, 2], [6]]
    assert isinstance(again[2], Conflict)


def test_a_second_writer_is_refused(url: str) -> None:
    one, two = EventStore(url), EventStore(url)
    writer = one.open_writer()
    with pytest.raises(WriterExists):
        two.open_writer()
    writer.close()
    two.open_writer().close()
    one.close()
    two.close()


def test_pages_are_filtered_and_say_how_far_they_looked(store: EventStore, writer: StoreWriter) -> None:
    requests = [new("dataset/a", 2), new("batches/a", 2, type_="t.Other"), new("dataset/b%_", 1)]
    append(Appender(writer, FixedClock(START), Tree(store)), *requests)
    found = store.read_page(0, 5, Filter(types=("t.Other",)), 10)
    assert ([r.position for r in found.records], found.examined) == ([3, 4], 5)
    found = store.read_page(0, 5, Filter(types=("t.Other",)), 1)
    assert ([r.position for r in found.records], found.examined) == ([3], 3)
    assert [r.position for r in store.read_page(0, 5, Filter(prefixes=("dataset/",)), 10).records] == [1, 2, 5]
    assert [r.position for r in store.read_page(0, 5, Filter(prefixes=("dataset/b%",)), 10).records] == [5]
    assert store.read_page(0, 5, Filter(prefixes=("DATASET/",)), 10).records == []
    assert [r.position for r in store.read_newest(5, 0, Filter(prefixes=("dataset/", "batches/")), 2)[0]] == [4, 3]
    assert [r.revision for r in store.read_stream("dataset/a", 1, 10)] == [2]


def test_a_page_is_bounded_in_bytes(store: EventStore, writer: StoreWriter) -> None:
    request = new("a", 5)
    for event in request.events:
        event.payload = bytes(400_000)
    append(Appender(writer, FixedClock(START), Tree(store)), request)
    page = store.read_page(0, 5, ALL, 500)
    assert ([r.position for r in page.records], page.examined) == ([1, 2, 3], 3)


def test_events_are_found_by_position_id_and_time(store: EventStore, writer: StoreWriter) -> None:
    clock = FixedClock(START)
    appender = Appender(writer, clock, Tree(store))
    for _ in range(7):
        append(appender, new("a"))
        clock.advance(timedelta(seconds=1))
    stored = store.at(3)
    assert stored is not None
    assert store.by_event_id(uuid.UUID(EventRecord.FromString(stored.record).event_id).bytes) == stored
    assert store.at(8) is None
    assert store.by_event_id(bytes(16)) is None
    micros = int(START.timestamp()) * 1_000_000
    assert [store.position_at(micros + offset) for offset in (-1, 0, 2_500_000, 99_000_000)] == [0, 1, 3, 7]
