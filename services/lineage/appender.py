"""Numbers, hashes and writes a group of appends in one transaction. Blocking; one thread at a time."""

import uuid
from collections import OrderedDict
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import Clock
from chassis.errors import AlreadyExists, Conflict, FieldViolation, InvalidArgument, LinealError
from chassis.records import to_timestamp
from lineal.api.lineage.v1.lineage_service_pb2 import AppendedEvent, AppendEventsRequest, AppendEventsResponse
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.merkle import Growing, Node, leaf_hash
from services.lineage.store_writer import EventIdThere, StoreWriter
from services.lineage.tables import NewRecord, Stored
from services.lineage.tree import Tree, kept

_CACHED_STREAMS = 10_000
_MAX_EVENTS = 1000


class EventIdTaken(AlreadyExists):
    """An event id is in the log with another content."""


class RevisionConflict(Conflict):
    """A stream is not at the expected revision."""


class AppendInvalid(InvalidArgument):
    """An append can never be right."""


def check(request: AppendEventsRequest, max_event_bytes: int) -> None:
    """Refuse an append that can never be right, with AppendInvalid."""
    violations = []
    if not _is_uuid(request.request_id):
        violations.append(FieldViolation("request_id", "must be a UUID"))
    if not 0 < len(request.stream) <= 512:
        violations.append(FieldViolation("stream", "must have 1 to 512 characters, as in `dataset/flights`"))
    if not 0 < len(request.events) <= _MAX_EVENTS:
        violations.append(FieldViolation("events", f"must be 1 to {_MAX_EVENTS} events"))
    for n, event in enumerate(request.events):
        if not _is_uuid(event.event_id):
            violations.append(FieldViolation(f"events[{n}].event_id", "must be a UUID"))
        if not event.type:
            violations.append(FieldViolation(f"events[{n}].type", "must be the full name of a message"))
        if len(event.payload) > max_event_bytes:
            violations.append(
                FieldViolation(
                    f"events[{n}].payload",
                    f"has {len(event.payload)} bytes, the most is {max_event_bytes}; "
                    "put the data in an artifact and its digest in the event",
                )
            )
    if len({event.event_id for event in request.events}) < len(request.events):
        violations.append(FieldViolation("events", "must have different event ids"))
    if violations:
        raise AppendInvalid("the append is not valid", violations)


def _is_uuid(value: str) -> bool:
    try:
        uuid.UUID(value)
    except ValueError:
        return False
    return True


class Appender:
    """Knows the head of the log, which nobody else moves."""

    def __init__(self, writer: StoreWriter, clock: Clock, tree: Tree) -> None:
        self._writer = writer
        self._clock = clock
        self._tree = tree
        self._revisions: OrderedDict[str, int] = OrderedDict()
        self.head, self._recorded = writer.newest()
        self._growing = tree.growing(self.head)

    def append(
        self, requests: Sequence[tuple[AppendEventsRequest, str]]
    ) -> tuple[list[AppendEventsResponse | LinealError], list[Stored]]:
        """Append a group of (request, traceparent) in order, each all or none, and return answers and new records.

        All that is new is durable when this returns; when it raises, nothing is.
        """
        try:
            answers, group = self._written(requests, {})
        except EventIdThere:
            # A request that was sent again is rare, so only then is each id looked for.
            keys = [uuid.UUID(event.event_id).bytes for request, _ in requests for event in request.events]
            answers, group = self._written(requests, self._writer.existing(keys))
        if group.records:
            self.head, self._recorded, self._growing = group.head, group.recorded, group.growing
        for stream, revision in group.revisions.items():
            self._revisions[stream] = revision
            self._revisions.move_to_end(stream)
        while len(self._revisions) > _CACHED_STREAMS:
            self._revisions.popitem(last=False)
        return answers, [new.stored for new in group.records]

    def _written(
        self, requests: Sequence[tuple[AppendEventsRequest, str]], existing: dict[bytes, bytes]
    ) -> tuple[list[AppendEventsResponse | LinealError], "_Group"]:
        group = _Group(self.head, max(self._recorded, _micros(self._clock)), self._growing.copy(), existing)
        group.revisions = self._known_revisions({request.stream for request, _ in requests})
        answers = [self._answered(group, request, traceparent) for request, traceparent in requests]
        if group.records:
            self._writer.commit(group.records, group.nodes)
        return answers, group

    def _answered(
        self, group: "_Group", request: AppendEventsRequest, traceparent: str
    ) -> AppendEventsResponse | LinealError:
        try:
            revision = group.revisions[request.stream]
            wrong = request.HasField("expected_revision") and request.expected_revision != revision
            if wrong:
                # The revision may be another because this very request was here before.
                keys = [uuid.UUID(event.event_id).bytes for event in request.events]
                group.existing |= self._writer.existing(keys)
            there = _there(group, request)
            if there:
                return _response(there, repeated=True)
            if wrong:
                raise RevisionConflict(
                    f"{request.stream} is at revision {revision}, not {request.expected_revision}; read it again"
                )
            return _response(_added(group, request, revision, traceparent), repeated=False)
        except LinealError as error:
            return error

    def _known_revisions(self, streams: set[str]) -> dict[str, int]:
        unknown = streams - self._revisions.keys()
        found = self._writer.revisions(unknown) if unknown else {}
        return {stream: self._revisions.get(stream, found.get(stream, 0)) for stream in streams}


class _Group:
    def __init__(self, head: int, recorded: int, growing: Growing, existing: dict[bytes, bytes]) -> None:
        self.head = head
        self.recorded = recorded
        self.growing = growing
        self.nodes: list[tuple[Node, bytes]] = []
        self.records: list[NewRecord] = []
        self.existing = existing
        self.revisions: dict[str, int] = {}


def _there(group: _Group, request: AppendEventsRequest) -> list[EventRecord]:
    ids = [uuid.UUID(event.event_id).bytes for event in request.events]
    found = [EventRecord.FromString(group.existing[key]) for key in ids if key in group.existing]
    if not found:
        return []
    same = len(found) == len(ids) and all(
        (old.stream, old.type, old.payload) == (request.stream, new.type, new.payload)
        for old, new in zip(found, request.events, strict=True)
    )
    if not same:
        raise EventIdTaken(
            f"request {request.request_id} has been used for other events in {found[0].stream}; use a new request id"
        )
    return found


def _added(group: _Group, request: AppendEventsRequest, revision: int, traceparent: str) -> list[EventRecord]:
    recorded_time = _timestamp(group.recorded)
    added = []
    for n, event in enumerate(request.events, start=1):
        record = EventRecord(
            position=group.head + n,
            stream=request.stream,
            revision=revision + n,
            event_id=str(uuid.UUID(event.event_id)),
            request_id=str(uuid.UUID(request.request_id)),
            type=event.type,
            payload=event.payload,
            event_time=event.event_time if event.HasField("event_time") else recorded_time,
            recorded_time=recorded_time,
            actor=request.actor,
            causation_id=request.causation_id,
            correlation_id=request.correlation_id,
            traceparent=traceparent,
        )
        stored = record.SerializeToString(deterministic=True)
        key = uuid.UUID(event.event_id).bytes
        group.existing[key] = stored
        leaf = leaf_hash(stored)
        group.nodes += kept(group.growing.add(leaf))
        place = Stored(record.position, record.stream, record.revision, record.type, stored, leaf)
        group.records.append(NewRecord(place, key, group.recorded))
        added.append(record)
    group.head += len(added)
    group.revisions[request.stream] = revision + len(added)
    return added


def _response(records: Sequence[EventRecord], *, repeated: bool) -> AppendEventsResponse:
    return AppendEventsResponse(
        position=records[-1].position,
        events=[
            AppendedEvent(event_id=record.event_id, position=record.position, revision=record.revision)
            for record in records
        ],
        repeated_request=repeated,
    )


def _micros(clock: Clock) -> int:
    stamp = to_timestamp(clock.now())
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000


def _timestamp(micros: int) -> Timestamp:
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)
