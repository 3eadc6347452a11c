"""The log against a model that is a dict: appends, repeats, clashes, other orders, and crashes, in 300 random runs.

A crash is what a machine that loses its power leaves: the files as they are, with what was written after the last
acknowledgement cut off anywhere. The next writer starts on a copy of them; the one before is never closed in order.
"""

import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from chassis.clock import FixedClock
from chassis.errors import AlreadyExists, Conflict, LinealError
from lineal import merkle
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, AppendEventsResponse
from lineal.api.lineage.v1.record_pb2 import EventRecord
from services.lineage.appender import Appender, checked
from services.lineage.store import EventStore, Filter
from services.lineage.tree import Tree

RUNS, STEPS = 300, 10
STREAMS = ("dataset/a", "dataset/b", "model/a")
TYPES = ("t.Made", "t.Changed")
Answer = tuple[list[int], bool] | type[LinealError]


@dataclass
class Model:
    """What the log should hold: events by id, in the order of their positions."""

    events: dict[str, tuple[str, int, str, bytes]] = field(default_factory=dict)

    def revision(self, stream: str) -> int:
        return sum(event[0] == stream for event in self.events.values())

    def append(self, request: AppendEventsRequest) -> Answer:
        ids = [event.event_id for event in request.events]
        there = [key for key in ids if key in self.events]
        order = {key: position for position, key in enumerate(self.events, start=1)}
        if there:
            asked = {event.event_id: (request.stream, event.type, event.payload) for event in request.events}
            found = {key: (self.events[key][0], *self.events[key][2:]) for key in there}
            return ([order[key] for key in ids], True) if found == asked else AlreadyExists
        revision = self.revision(request.stream)
        if request.HasField("expected_revision") and request.expected_revision != revision:
            return Conflict
        for number, new in enumerate(request.events, start=1):
            self.events[new.event_id] = (request.stream, revision + number, new.type, new.payload)
        return list(range(len(order) + 1, len(self.events) + 1)), False

    def copy(self) -> "Model":
        return Model(dict(self.events))


class Log(RuleBasedStateMachine):
    """Drives the writer of the log on SQLite as the service does: groups of appends, one after the other."""

    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        # What a disk does is played here by cutting files off, so memory will do, where there is some.
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="lineal-log-", dir=memory if memory.is_dir() else None))
        self.clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.model = Model()
        self.generation = 0
        self.durable = 0
        self.seen_root: tuple[int, bytes] = (0, merkle.root([]))
        self._open()

    def teardown(self) -> None:
        self._drop()
        shutil.rmtree(self.folder)

    @initialize(target=sent)
    def begin(self) -> AppendEventsRequest:
        assert self.store.head() == 0
        request = self._request(STREAMS[0], 2, TYPES[0], "right", b"")
        self._send(request)
        return request

    @rule(
        target=sent,
        stream=st.sampled_from(STREAMS),
        count=st.integers(1, 3),
        type_=st.sampled_from(TYPES),
        expected=st.sampled_from(("any", "right", "wrong")),
        payload=st.binary(max_size=2000),
    )
    def append(self, stream: str, count: int, type_: str, expected: str, payload: bytes) -> AppendEventsRequest:
        request = self._request(stream, count, type_, expected, payload)
        self._send(request)
        return request

    @rule(target=sent, streams=st.lists(st.sampled_from(STREAMS), min_size=2, max_size=4), data=st.data())
    def append_together(self, streams: list[str], data: st.DataObject) -> Any:
        requests = [self._request(s, 1, TYPES[0], data.draw(st.sampled_from(("any", "right"))), b"") for s in streams]
        self._send(*requests)
        return multiple(*requests)

    @rule(requests=st.lists(sent, min_size=1, max_size=4))
    def repeat_in_any_order(self, requests: list[AppendEventsRequest]) -> None:
        self._send(*requests)

    @rule(request=sent, stream=st.sampled_from(STREAMS))
    def repeat_among_new_ones(self, request: AppendEventsRequest, stream: str) -> None:
        fresh = self._request(stream, 2, TYPES[1], "any", b"new")
        self._send(self._request(stream, 1, TYPES[0], "any", b""), request, fresh, request, fresh)

    @rule(request=sent)
    def take_an_id_again_for_something_else(self, request: AppendEventsRequest) -> None:
        clash = AppendEventsRequest.FromString(request.SerializeToString())
        clash.events[-1].payload += b"!"
        self._send(clash)
        longer = AppendEventsRequest.FromString(request.SerializeToString())
        longer.events.add(event_id=str(uuid.uuid4()), type=TYPES[0])
        self._send(longer)

    @rule(seconds=st.integers(-3600, 3600))
    def the_clock_jumps(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @rule()
    def checkpoint_the_database(self) -> None:
        writer: Any = self.writer
        writer._raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self.durable = self._wal_bytes()

    @rule()
    def crash(self) -> None:
        self._crash(cut=None)

    @rule(
        target=sent,
        again=sent,
        cut=st.sampled_from((0.0, 0.4, 0.7, 0.99, 1.0)),
        stream=st.sampled_from(STREAMS),
        size=st.sampled_from((0, 300, 20_000)),
    )
    def crash_while_appending(
        self, again: AppendEventsRequest, cut: float, stream: str, size: int
    ) -> AppendEventsRequest:
        """Nobody was told what came of the group, so all of it may be there, or nothing."""
        requests = [self._request(stream, 2, TYPES[0], "right", bytes(size)), again]
        before, after = self.model, self.model.copy()
        for request in requests:
            after.append(request)
        self.appender.append([checked(request, "", 1_000_000) for request in requests])
        self._crash(cut)
        self.model = before if self.store.head() == len(before.events) else after
        event("the group is there" if self.model is after else "the group is lost")
        return requests[0]

    @invariant()
    def the_log_is_as_the_model_says(self) -> None:
        stored = self.store.read_page(0, len(self.model.events) + 10, Filter(), 10_000).records
        records = [EventRecord.FromString(each.record) for each in stored]
        found = {r.event_id: (r.stream, r.revision, r.type, r.payload) for r in records}
        assert list(found.items()) == list(self.model.events.items())
        assert [record.position for record in records] == list(range(1, len(self.model.events) + 1))
        times = [record.recorded_time.ToNanoseconds() for record in records]
        assert times == sorted(times)
        leaves = [merkle.leaf_hash(each.record) for each in stored]
        assert leaves == [each.leaf_hash for each in stored]
        tree = Tree(self.store)
        root = tree.root(len(leaves))
        assert root == merkle.root(leaves)
        # It was only added to since the last look.
        size, old = self.seen_root
        if size > 0:
            merkle.check_consistency(size, old, len(leaves), root, tree.consistency(size, len(leaves)))
        self.seen_root = len(leaves), root

    @invariant()
    def readers_get_what_they_ask_for(self) -> None:
        for stream in STREAMS:
            revisions = [record.revision for record in self.store.read_stream(stream, 0, 10_000)]
            assert revisions == list(range(1, self.model.revision(stream) + 1))
        wanted = Filter(types=TYPES[:1], prefixes=("dataset/",))
        paged: list[int] = []
        after = 0
        while after < len(self.model.events):
            page = self.store.read_page(after, len(self.model.events), wanted, 3)
            paged += [record.position for record in page.records]
            after = page.examined
        values = enumerate(self.model.events.values(), start=1)
        assert paged == [n for n, (stream, _, type_, _) in values if wanted_is(stream, type_)]

    def _request(self, stream: str, count: int, type_: str, expected: str, payload: bytes) -> AppendEventsRequest:
        request = AppendEventsRequest(request_id=str(uuid.uuid4()), stream=stream)
        if expected != "any":
            request.expected_revision = self.model.revision(stream) + (expected == "wrong")
        for _ in range(count):
            request.events.add(event_id=str(uuid.uuid4()), type=type_, payload=payload)
        return request

    def _send(self, *requests: AppendEventsRequest) -> None:
        answers, records = self.appender.append([checked(request, "", 1_000_000) for request in requests])
        self.durable = self._wal_bytes()
        before = len(self.model.events)
        for request, answer in zip(requests, answers, strict=True):
            expected = self.model.append(request)
            if isinstance(answer, AppendEventsResponse):
                assert ([event.position for event in answer.events], answer.repeated_request) == expected
            else:
                assert isinstance(expected, type)
                assert isinstance(answer, expected)
        assert len(records) == len(self.model.events) - before

    def _wal_bytes(self) -> int:
        wal = self._file("-wal")
        return wal.stat().st_size if wal.exists() else 0

    def _file(self, ending: str = "") -> Path:
        return self.folder / f"{self.generation}" / f"log.db{ending}"

    def _open(self) -> None:
        self._file().parent.mkdir(exist_ok=True)
        self.store = EventStore(f"sqlite:///{self._file()}")
        self.writer = self.store.open_writer()
        self.appender = Appender(self.writer, self.clock, Tree(self.store))
        self.durable = self._wal_bytes()
        assert self.appender.head == self.store.head()

    def _drop(self) -> None:
        self.writer.close()
        self.store.close()

    def _crash(self, cut: float | None) -> None:
        old, wal, size = self._file(), self._file("-wal"), self._wal_bytes()
        self.generation += 1
        self._file().parent.mkdir()
        shutil.copy(old, self._file())
        if wal.exists():
            shutil.copy(wal, self._file("-wal"))
            if cut is not None and size > self.durable:
                with self._file("-wal").open("r+b") as file:
                    file.truncate(self.durable + int((size - self.durable) * cut))
        # Only to give back what this process has open; the files that count are copied.
        self._drop()
        self._open()
        sound: Any = self.writer
        assert sound._raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def wanted_is(stream: str, type_: str) -> bool:
    return stream.startswith("dataset/") and type_ == TYPES[0]


LogTest = Log.TestCase
LogTest.settings = settings(
    max_examples=RUNS,
    stateful_step_count=STEPS,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
LogTest = pytest.mark.timeout(300)(LogTest)
