"""The event log in memory, for unit tests. It keeps the same contract suite as the real one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

from google.protobuf.message import Message

from chassis.clock import Clock, SystemClock
from chassis.errors import AlreadyExists, Conflict, FieldViolation, InvalidArgument
from chassis.events import AppendResult, Delivery, Event
from chassis.records import append_request, append_result, to_datetime, to_event, to_timestamp, type_name
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest
from lineal.api.lineage.v1.record_pb2 import EventRecord

_PAGE = 256


class EventIdTaken(AlreadyExists):
    """An event id is in the log with another content."""


class RevisionConflict(Conflict):
    """A stream is not at the expected revision."""


def check_append(request: AppendEventsRequest) -> None:
    """Refuse an append that can never be right, with InvalidArgument."""
    violations = []
    if not request.stream or len(request.stream) > 512:
        violations.append(FieldViolation("stream", "must have 1 to 512 characters, as in `dataset/flights`"))
    if not request.events:
        violations.append(FieldViolation("events", "must have at least one event"))
    if violations:
        raise InvalidArgument("the append is not valid", violations)


class InMemoryLog:
    """A log that is gone with the process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._records: list[EventRecord] = []
        self._changed = asyncio.Condition()

    async def append(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        request_id: str,
        expected_revision: int | None,
        event_time: datetime | None = None,
    ) -> AppendResult:
        """Append events to a stream, all or none."""
        request = append_request(
            stream, messages, request_id=request_id, expected_revision=expected_revision, event_time=event_time
        )
        check_append(request)
        async with self._changed:
            there = self._there(request)
            if there:
                return append_result(there, position=there[-1].position, repeated=True)
            revision = sum(1 for record in self._records if record.stream == stream)
            if expected_revision is not None and expected_revision != revision:
                raise RevisionConflict(f"{stream} is at revision {revision}, not {expected_revision}; read it again")
            recorded = to_timestamp(self._clock.now())
            if self._records and self._records[-1].recorded_time.ToNanoseconds() > recorded.ToNanoseconds():
                recorded = self._records[-1].recorded_time
            added = [
                EventRecord(
                    position=len(self._records) + n,
                    stream=stream,
                    revision=revision + n,
                    event_id=new.event_id,
                    request_id=request.request_id,
                    type=new.type,
                    payload=new.payload,
                    event_time=new.event_time if new.HasField("event_time") else recorded,
                    recorded_time=recorded,
                    actor=request.actor,
                    causation_id=request.causation_id,
                    correlation_id=request.correlation_id,
                )
                for n, new in enumerate(request.events, start=1)
            ]
            self._records.extend(added)
            self._changed.notify_all()
        return append_result(added, position=added[-1].position, repeated=False)

    async def read_stream(self, stream: str, after_revision: int = 0, limit: int | None = None) -> list[Event]:
        """Return the events of a stream in order."""
        found = [r for r in self._records if r.stream == stream and r.revision > after_revision]
        return [to_event(record.SerializeToString()) for record in found[:limit]]

    async def subscribe(
        self,
        after_position: int,
        types: Sequence[type[Message]] = (),
        prefixes: Sequence[str] = (),
    ) -> AsyncGenerator[Delivery, None]:
        """Yield history after a position, then live events."""
        wanted = {type_name(t) for t in types}
        position = after_position
        live = False
        while True:
            async with self._changed:
                while live and len(self._records) <= position:
                    await self._changed.wait()
                page = self._records[position : position + _PAGE]
            live = position + len(page) >= len(self._records)
            position = max(position, page[-1].position if page else 0)
            events = tuple(
                to_event(record.SerializeToString())
                for record in page
                if (not wanted or record.type in wanted) and (not prefixes or record.stream.startswith(tuple(prefixes)))
            )
            yield Delivery(events, position, live)

    async def head(self, then: datetime | None = None) -> int:
        """Return the position of the newest event, now or then."""
        if then is None:
            return len(self._records)
        return sum(to_datetime(record.recorded_time) <= then for record in self._records)

    def _there(self, request: AppendEventsRequest) -> list[EventRecord]:
        by_id = {record.event_id: record for record in self._records}
        there = [by_id[new.event_id] for new in request.events if new.event_id in by_id]
        if not there:
            return []
        same = len(there) == len(request.events) and all(
            (old.type, old.payload, old.stream) == (new.type, new.payload, request.stream)
            for old, new in zip(there, request.events, strict=True)
        )
        if not same:
            raise EventIdTaken(f"request {request.request_id} has been used for other events; use a new request id")
        return there
