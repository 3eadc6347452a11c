"""Numbers, hashes and writes a group of appends in one transaction. Blocking; one thread at a time."""

import re
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import Clock
from chassis.errors import AlreadyExists, Conflict, FieldViolation, InvalidArgument, LinealError
from chassis.records import to_timestamp
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, AppendEventsResponse
from lineal.api.lineage.v1.record_pb2 import EventRecord, NewEvent
from lineal.merkle import Growing, Node, leaf_hash
from services.lineage.store_writer import EventIdThere, StoreWriter
from services.lineage.tables import Stored
from services.lineage.tree import TILE_LEVELS, Tree

_CACHED_STREAMS = 10_000
_MAX_EVENTS = 1000
# What nearly all ids look like; then all of an append are read at once, ten times as fast as one by one by the library.
_CANONICAL = re.compile("(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})+").fullmatch
_UUID_CHARACTERS, _UUID_BYTES = 36, 16


class EventIdTaken(AlreadyExists):
    """An event id is in the log with another content."""


class RevisionConflict(Conflict):
    """A stream is not at the expected revision."""


class AppendInvalid(InvalidArgument):
    """An append can never be right."""


@dataclass(frozen=True, slots=True)
class Append:
    """An append that may be right: `event_ids` are its events' ids as UUIDs are written, `keys` as they are stored."""

    request: AppendEventsRequest
    events: list[NewEvent]
    traceparent: str
    request_id: str
    event_ids: list[str]
    keys: list[bytes]


def checked(request: AppendEventsRequest, traceparent: str, max_event_bytes: int) -> Append:
    """Refuse an append that can never be right, with AppendInvalid."""
    violations = []
    # A list, since the request makes each of its events an object again whenever it is asked for them.
    events = list(request.events)
    ((request_id, _),) = _uuids([request.request_id])
    if not request_id:
        violations.append(FieldViolation("request_id", "must be a UUID"))
    if not 0 < len(request.stream) <= 512:
        violations.append(FieldViolation("stream", "must have 1 to 512 characters, as in `dataset/flights`"))
    if not 0 < len(events) <= _MAX_EVENTS:
        violations.append(FieldViolation("events", f"must be 1 to {_MAX_EVENTS} events"))
    ids = _uuids([event.event_id for event in events])
    event_ids, keys = [written for written, _ in ids], [key for _, key in ids]
    for n, event in enumerate(events):
        if not event_ids[n]:
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
    if len(set(event_ids)) < len(event_ids):
        violations.append(FieldViolation("events", "must have different event ids"))
    if violations:
        raise AppendInvalid("the append is not valid", violations)
    return Append(request, events, traceparent, request_id, event_ids, keys)


def _uuids(values: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return UUIDs as they are written and as bytes, both empty for what is none."""
    joined = "".join(values)
    if _CANONICAL(joined) and all(len(value) == _UUID_CHARACTERS for value in values):
        keys = bytes.fromhex(joined.replace("-", ""))
        return [(value, keys[n * _UUID_BYTES : (n + 1) * _UUID_BYTES]) for n, value in enumerate(values)]
    return [_uuid(value) for value in values]


def _uuid(value: str) -> tuple[str, bytes]:
    try:
        found = uuid.UUID(value)
    except ValueError:
        return "", b""
    return str(found), found.bytes


class Appender:
    """Knows the head of the log, which nobody else moves."""

    def __init__(self, writer: StoreWriter, clock: Clock, tree: Tree) -> None:
        self._writer = writer
        self._clock = clock
        self._tree = tree
        self._revisions: OrderedDict[str, int] = OrderedDict()
        self.head, self._recorded = writer.newest()
        self._growing = tree.growing(self.head)

    def append(self, appends: Sequence[Append]) -> tuple[list[AppendEventsResponse | LinealError], list[Stored]]:
        """Append a group in order, each all or none, and return answers and new records.

        All that is new is durable when this returns; when it raises, nothing is.
        """
        try:
            answers, group = self._written(appends, {})
        except EventIdThere:
            # A request that was sent again is rare, so only then is each id looked for.
            keys = [key for append in appends for key in append.keys]
            answers, group = self._written(appends, self._writer.existing(keys))
        if group.records:
            self.head, self._recorded, self._growing = group.head, group.recorded, group.growing
        for stream, revision in group.revisions.items():
            self._revisions[stream] = revision
            self._revisions.move_to_end(stream)
        while len(self._revisions) > _CACHED_STREAMS:
            self._revisions.popitem(last=False)
        return answers, group.records

    def _written(
        self, appends: Sequence[Append], existing: dict[bytes, bytes]
    ) -> tuple[list[AppendEventsResponse | LinealError], "_Group"]:
        group = _Group(self.head, max(self._recorded, _micros(self._clock)), self._growing.copy(), existing)
        group.revisions = self._known_revisions({append.request.stream for append in appends})
        answers = [self._answered(group, append) for append in appends]
        if group.records:
            self._writer.commit(group.records, group.nodes)
        return answers, group

    def _answered(self, group: "_Group", append: Append) -> AppendEventsResponse | LinealError:
        request = append.request
        try:
            revision = group.revisions[request.stream]
            wrong = request.HasField("expected_revision") and request.expected_revision != revision
            if wrong:
                # The revision may be another because this very request was here before.
                group.existing |= self._writer.existing(append.keys)
            if not group.existing.keys().isdisjoint(append.keys):
                return _repeated(group, append)
            if wrong:
                raise RevisionConflict(
                    f"{request.stream} is at revision {revision}, not {request.expected_revision}; read it again"
                )
            return _added(group, append, revision)
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
        self.records: list[Stored] = []
        self.existing = existing
        self.revisions: dict[str, int] = {}


def _repeated(group: _Group, append: Append) -> AppendEventsResponse:
    request = append.request
    found = [EventRecord.FromString(group.existing[key]) for key in append.keys if key in group.existing]
    same = len(found) == len(append.keys) and all(
        (old.stream, old.type, old.payload) == (request.stream, new.type, new.payload)
        for old, new in zip(found, append.events, strict=True)
    )
    if not same:
        raise EventIdTaken(
            f"request {request.request_id} has been used for other events in {found[0].stream}; use a new request id"
        )
    response = AppendEventsResponse(position=found[-1].position, repeated_request=True)
    for old in found:
        response.events.add(event_id=old.event_id, position=old.position, revision=old.revision)
    return response


def _added(group: _Group, append: Append, revision: int) -> AppendEventsResponse:
    request = append.request
    recorded_time = _timestamp(group.recorded)
    position, stream = group.head, request.stream
    response = AppendEventsResponse(position=position + len(append.keys))
    # One message for all events: what they share is set once.
    record = EventRecord(
        stream=stream,
        request_id=append.request_id,
        event_time=recorded_time,
        recorded_time=recorded_time,
        actor=request.actor,
        causation_id=request.causation_id,
        correlation_id=request.correlation_id,
        traceparent=append.traceparent,
    )
    other_time = False
    # Reading a field or a name again costs as much as hashing; this runs for every event there is.
    add, grow, keep = response.events.add, group.growing.add, group.records.append
    recorded = group.recorded
    for event, event_id, key in zip(append.events, append.event_ids, append.keys, strict=True):
        position += 1
        revision += 1
        record.position = position
        record.revision = revision
        record.event_id = event_id
        record.type = kind = event.type
        record.payload = event.payload
        given = event.HasField("event_time")
        if given or other_time:
            record.event_time.CopyFrom(event.event_time if given else recorded_time)
            other_time = given
        # Without maps in it a message has the same bytes each time.
        stored = record.SerializeToString()
        leaf = leaf_hash(stored)
        if completed := grow(leaf, TILE_LEVELS):
            group.nodes += completed
        keep(Stored(position, stream, revision, key, kind, recorded, stored, leaf))
        group.existing[key] = stored
        appended = add()
        appended.event_id = event_id
        appended.position = position
        appended.revision = revision
    group.head = position
    group.revisions[stream] = revision
    return response


def _micros(clock: Clock) -> int:
    stamp = to_timestamp(clock.now())
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000


def _timestamp(micros: int) -> Timestamp:
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)
