"""The event log as lineage's own projections read it: without a network."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime

from google.protobuf.message import Message

from chassis.events import AppendResult, Delivery, Event
from chassis.records import append_request, append_result, to_event, type_name
from services.lineage.application import Application
from services.lineage.store import Filter


class LocalLog:
    """Lineage's log within its own process."""

    def __init__(self, application: Application) -> None:
        self._application = application

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
        response = await self._application.append(request, "")
        return append_result(response.events, position=response.position, repeated=response.repeated_request)

    async def read_stream(self, stream: str, after_revision: int = 0, limit: int | None = None) -> list[Event]:
        """Return the events of a stream in order."""
        events: list[Event] = []
        while limit is None or len(events) < limit:
            wanted = 0 if limit is None else limit - len(events)
            records, head = await self._application.read_stream(stream, after_revision, wanted)
            events += [to_event(record.record) for record in records]
            if not records or records[-1].revision >= head:
                break
            after_revision = records[-1].revision
        return events

    async def subscribe(
        self,
        after_position: int,
        types: Sequence[type[Message]] = (),
        prefixes: Sequence[str] = (),
    ) -> AsyncGenerator[Delivery, None]:
        """Yield history after a position, then live events."""
        wanted = Filter(tuple(type_name(t) for t in types), tuple(prefixes))
        async with aclosing(self._application.subscribe(after_position, wanted)) as deliveries:
            async for delivered in deliveries:
                events = tuple(to_event(record.record) for record in delivered.records)
                yield Delivery(events, delivered.examined, delivered.live)

    async def head(self, then: datetime | None = None) -> int:
        """Return the position of the newest event, now or then."""
        return self._application.head() if then is None else await self._application.position_at(then)
