"""What concurrent clients did and were told, and whether the log can have come about so.

Each attempt is ok, failed (the log said that it did nothing) or unknown (no answer, or one that leaves it open). The
names of the invariants are those of docs/event-log.md.
"""

import random
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any

import grpc
import grpc.aio

from chassis.records import serialize, type_name
from lineal import merkle
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, AppendEventsResponse
from lineal.api.lineage.v1.record_pb2 import EventRecord, StoredRecord

SHARED = "batches/shared"
_ATTEMPT_SECONDS = 2.0
# The log answers so only before it has written anything.
_DID_NOTHING = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_UNKNOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


class Outcome(Enum):
    """What a client knows of an attempt."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass
class Attempt:
    """One call: when it began and ended on the clock of the history, and what came of it."""

    request: AppendEventsRequest
    began: int
    ended: int = 0
    outcome: Outcome = Outcome.UNKNOWN
    answer: AppendEventsResponse | None = None


@dataclass
class History:
    """All attempts of all clients in one order of beginnings and ends."""

    attempts: list[Attempt] = field(default_factory=list)
    _ticks: Any = field(default_factory=count)

    async def attempt(self, stub: Any, request: AppendEventsRequest) -> Attempt:
        """Make one call and record it."""
        made = Attempt(request, next(self._ticks))
        self.attempts.append(made)
        try:
            made.answer = await stub.AppendEvents(request, timeout=_ATTEMPT_SECONDS, wait_for_ready=True)
            made.outcome = Outcome.OK
        except grpc.aio.AioRpcError as error:
            if error.code() in _DID_NOTHING:
                made.outcome = Outcome.FAILED
            elif error.code() not in _UNKNOWN:
                raise
        made.ended = next(self._ticks)
        return made

    async def client(self, stub: Any, number: int, seed: int) -> None:
        """Append without end, alone and in a stream that all share, sometimes again after an unknown outcome."""
        chance = random.Random(seed)
        own, revision = f"batches/{number}", 0
        while True:
            shared = chance.random() < 0.4
            request = new_request(SHARED if shared else own, chance.randint(1, 3))
            if not shared:
                request.expected_revision = revision
            elif chance.random() < 0.5:
                # Often wrong, as others write there as well.
                request.expected_revision = self._seen(SHARED)
            made = await self.attempt(stub, request)
            while made.outcome is Outcome.UNKNOWN and chance.random() < 0.7:
                made = await self.attempt(stub, request)
            if made.outcome is Outcome.UNKNOWN and not shared:
                # It may or may not be there, so the client goes on in a stream that is new.
                own, revision = f"{own}+", 0
            elif made.answer is not None and not shared:
                revision = made.answer.events[-1].revision

    def counts(self) -> Counter[Outcome]:
        """Return how many attempts came out how."""
        return Counter(attempt.outcome for attempt in self.attempts)

    def _seen(self, stream: str) -> int:
        for attempt in reversed(self.attempts):
            if attempt.answer is not None and attempt.request.stream == stream:
                return attempt.answer.events[-1].revision
        return 0


def check(history: History, stored: Sequence[StoredRecord]) -> bytes:
    """Raise AssertionError unless the log can have come about by the history; return the root of its tree."""
    records = [EventRecord.FromString(each.record) for each in stored]
    ids = Counter(record.event_id for record in records)
    there = {record.event_id: record for record in records}
    _check_acknowledged(history, there, ids)
    _check_nothing_else(history, there)
    _check_order(history, records)
    tree = merkle.Growing()
    for each in stored:
        assert merkle.leaf_hash(each.record) == each.leaf_hash, "I3: a leaf is not the hash of its record"
        tree.add(each.leaf_hash)
    return tree.root()


def _check_acknowledged(history: History, there: dict[str, EventRecord], ids: Counter[str]) -> None:
    for attempt in history.attempts:
        if attempt.answer is None:
            continue
        for told in attempt.answer.events:
            assert ids[told.event_id] == 1, (
                f"I1: acknowledged event {told.event_id} is there {ids[told.event_id]} times"
            )
            found = there[told.event_id]
            assert (found.position, found.revision) == (told.position, told.revision), "I1: an event lies elsewhere"
        if attempt.request.HasField("expected_revision"):
            first = attempt.answer.events[0].revision
            assert first == attempt.request.expected_revision + 1, "I1: an append went to another revision"


def _check_nothing_else(history: History, there: dict[str, EventRecord]) -> None:
    sent: dict[str, tuple[str, str, bytes]] = {}
    outcomes: dict[str, set[Outcome]] = {}
    requests: dict[str, AppendEventsRequest] = {}
    for attempt in history.attempts:
        request = attempt.request
        requests[request.request_id] = request
        outcomes.setdefault(request.request_id, set()).add(attempt.outcome)
        sent |= {event.event_id: (request.stream, event.type, event.payload) for event in request.events}
    found = {key: (record.stream, record.type, record.payload) for key, record in there.items()}
    assert found.items() <= sent.items(), "I2: something is there that nobody sent"
    for key, request in requests.items():
        present = [event.event_id in there for event in request.events]
        assert len(set(present)) == 1, "I2: an append is there in part"
        if outcomes[key] == {Outcome.FAILED}:
            assert not any(present), "I2: an append is there that the log said it had refused"


def _check_order(history: History, records: Sequence[EventRecord]) -> None:
    assert [record.position for record in records] == list(range(1, len(records) + 1)), "I3: positions have a gap"
    revisions: Counter[str] = Counter()
    for record in records:
        revisions[record.stream] += 1
        assert record.revision == revisions[record.stream], f"I3: revisions of {record.stream} have a gap"
    # What was acknowledged before something else began comes first.
    newest = 0
    moments = [(a.ended, 1, a) for a in history.attempts if a.answer] + [(a.began, 0, a) for a in history.attempts]
    before: dict[int, int] = {}
    for _, ends, attempt in sorted(moments, key=lambda moment: moment[:2]):
        if ends:
            assert attempt.answer is not None
            if not attempt.answer.repeated_request:
                first = attempt.answer.events[0].position
                assert first > before[id(attempt)], "I3: an append lies before one that had been acknowledged"
            newest = max(newest, attempt.answer.position)
        else:
            before[id(attempt)] = newest


def new_request(stream: str, events: int) -> AppendEventsRequest:
    """Return an append of events that read tables take up."""
    request = AppendEventsRequest(request_id=str(uuid.uuid4()), stream=stream, actor="person:tester")
    for _ in range(events):
        batch = BatchAccepted(dataset=stream.partition("/")[2], batch_id=str(uuid.uuid4()), accepted_rows=1)
        request.events.add(event_id=str(uuid.uuid4()), type=type_name(batch), payload=serialize(batch))
    return request
