"""Between the stored bytes of an event and `Event`."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.context import caller
from chassis.events import AppendResult, Event
from chassis.ids import check_request_id, event_id
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest
from lineal.api.lineage.v1.record_pb2 import EventFilter, EventRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POOL = descriptor_pool.Default()  # type: ignore[no-untyped-call]


def to_datetime(timestamp: Timestamp) -> datetime:
    """Return a protobuf timestamp as an instant in UTC, to the microsecond."""
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def to_timestamp(instant: datetime) -> Timestamp:
    """Return an instant as a protobuf timestamp; one without a time zone is refused with ValueError."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone; Lineal keeps all times in UTC")
    micros = (instant - _EPOCH) // timedelta(microseconds=1)
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def type_name(message: Message | type[Message]) -> str:
    """Return the full protobuf name of a message, which is the type of its event."""
    return str(message.DESCRIPTOR.full_name)


def serialize(message: Message) -> bytes:
    """Return the deterministic serialisation of a message."""
    return message.SerializeToString(deterministic=True)


def decode(type_: str, payload: bytes) -> Message | None:
    """Return the message in a payload, None when this process has not imported its type."""
    try:
        descriptor = _POOL.FindMessageTypeByName(type_)
    except KeyError:
        return None
    message = message_factory.GetMessageClass(descriptor)()
    try:
        message.ParseFromString(payload)
    except DecodeError:
        return None
    return message


class Appended(Protocol):
    """Where an event went, as a record or as an answer of lineage."""

    position: int
    revision: int
    event_id: str


def append_result(events: Iterable[Appended], *, position: int, repeated: bool) -> AppendResult:
    """Return what an append came to; `position` is that of its newest event."""
    events = list(events)
    return AppendResult(
        position=position,
        positions=tuple(event.position for event in events),
        revisions=tuple(event.revision for event in events),
        event_ids=tuple(event.event_id for event in events),
        repeated=repeated,
    )


def to_event(stored: bytes) -> Event:
    """Return the event in the stored bytes."""
    record = EventRecord.FromString(stored)
    return Event(
        position=record.position,
        stream=record.stream,
        revision=record.revision,
        event_id=record.event_id,
        request_id=record.request_id,
        type=record.type,
        message=decode(record.type, record.payload),
        event_time=to_datetime(record.event_time),
        recorded_time=to_datetime(record.recorded_time),
        actor=record.actor,
        causation_id=record.causation_id,
        correlation_id=record.correlation_id,
        traceparent=record.traceparent,
        payload=record.payload,
    )


def append_request(
    stream: str,
    messages: Sequence[Message],
    *,
    request_id: str,
    expected_revision: int | None,
    event_time: datetime | None,
) -> AppendEventsRequest:
    """Return the request that appends messages on behalf of the current caller."""
    request_id = check_request_id(request_id)
    who = caller()
    request = AppendEventsRequest(
        request_id=request_id,
        stream=stream,
        expected_revision=expected_revision,
        actor=who.actor,
        causation_id=who.causation_id,
        correlation_id=who.correlation_id,
    )
    for n, message in enumerate(messages, start=1):
        new = request.events.add(event_id=event_id(request_id, n), type=type_name(message), payload=serialize(message))
        if event_time is not None:
            new.event_time.CopyFrom(to_timestamp(event_time))
    return request


def event_filter(types: Sequence[type[Message]], prefixes: Sequence[str]) -> EventFilter:
    """Return the filter for these types and stream prefixes."""
    return EventFilter(types=[type_name(t) for t in types], stream_prefixes=prefixes)
