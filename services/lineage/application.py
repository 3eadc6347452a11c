"""What lineage does, one method per use case."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from chassis.errors import FieldViolation, InvalidArgument, NotFound, RuleViolated
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, AppendEventsResponse
from services.lineage.appender import checked
from services.lineage.store import EventStore, Filter, Page, Stored
from services.lineage.writer import Writer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What is examined, and what is handed over, at once.
_SPAN = 5000
_PAGE = 500
STREAM_PAGE = 1000


class EventNotFound(NotFound):
    """No such event in the log."""


class BeyondHead(RuleViolated):
    """A subscriber has read further than this log goes."""


@dataclass(frozen=True)
class Delivered:
    """What a subscriber gets at once."""

    records: list[Stored]
    examined: int
    live: bool


class Application:
    """The event log."""

    def __init__(self, store: EventStore, writer: Writer, max_event_bytes: int) -> None:
        self._store = store
        self._writer = writer
        self._max_event_bytes = max_event_bytes

    async def append(self, request: AppendEventsRequest, traceparent: str) -> AppendEventsResponse:
        """Append events to one stream, durably, all or none."""
        return await self._writer.append(checked(request, traceparent, self._max_event_bytes))

    def head(self) -> int:
        """Return the position of the newest event."""
        return self._writer.head

    async def event_at(self, position: int) -> Stored:
        """Return the event at a position."""
        found = await asyncio.to_thread(self._store.at, position)
        if found is None:
            raise EventNotFound(f"the log has no event at position {position}; it ends at {self._writer.head}")
        return found

    async def event_by_id(self, event_id: str) -> Stored:
        """Return the event with an id."""
        try:
            key = uuid.UUID(event_id).bytes
        except ValueError:
            raise InvalidArgument(
                f"event id {event_id!r} is not a UUID", [FieldViolation("event_id", "must be a UUID")]
            ) from None
        found = await asyncio.to_thread(self._store.by_event_id, key)
        if found is None:
            raise EventNotFound(f"the log has no event {event_id}")
        return found

    async def read_stream(self, stream: str, after_revision: int, limit: int) -> tuple[list[Stored], int]:
        """Return events of a stream in order and the stream's newest revision."""
        size = min(limit or STREAM_PAGE, STREAM_PAGE)
        records = await asyncio.to_thread(self._store.read_stream, stream, after_revision, size)
        return records, await asyncio.to_thread(self._store.revision, stream)

    async def list_oldest(self, after: int, until: int, wanted: Filter, limit: int) -> tuple[list[Stored], int]:
        """Return events in order up to a position, and the position to go on after, 0 at the end."""
        records: list[Stored] = []
        while after < until and len(records) < limit:
            page = await asyncio.to_thread(
                self._store.read_page, after, min(until, after + _SPAN), wanted, limit - len(records)
            )
            records += page.records
            after = page.examined
            if sum(len(record.record) for record in records) >= 1024 * 1024:
                break
        return records, after if after < until else 0

    async def list_newest(self, before: int, after: int, wanted: Filter, limit: int) -> tuple[list[Stored], int]:
        """Return events newest first between two positions, and the one to go on before, 0 at the end."""
        records, more = await asyncio.to_thread(self._store.read_newest, before, after, wanted, limit)
        return records, records[-1].position if more and records[-1].position > after + 1 else 0

    async def position_at(self, until: datetime) -> int:
        """Return the position of the last event recorded at or before a time."""
        return await asyncio.to_thread(self._store.position_at, (until - _EPOCH) // timedelta(microseconds=1))

    async def subscribe(self, after: int, wanted: Filter) -> AsyncGenerator[Delivered, None]:
        """Yield history, then live events, without end; nothing is buffered but one page.

        Raises BeyondHead when `after` lies beyond the log's end.
        """
        if after > self._writer.head:
            raise BeyondHead(
                f"position {after} is asked for, but the log ends at {self._writer.head}; it is another log, or one "
                "that was restored from an older backup: rebuild the read tables of this subscriber"
            )
        position = after
        live = False
        while True:
            if live:
                await self._writer.grown(position)
            page = await self._page(position, wanted)
            position = page.examined
            live = live or position >= self._writer.head
            yield Delivered(page.records, position, live)

    async def _page(self, after: int, wanted: Filter) -> Page:
        page = self._writer.tail.page(after, wanted, _PAGE)
        if page is not None:
            return page
        until = min(self._writer.head, after + _SPAN)
        return await asyncio.to_thread(self._store.read_page, after, until, wanted, _PAGE)
