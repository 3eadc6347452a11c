"""The port to the event log, and what comes out of it. No transport in here, so that domain code may import it."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from google.protobuf.message import Message


@dataclass(frozen=True)
class Event:
    """One fact of the log.

    `message` is None when this process does not know the type; `payload` has the bytes in any case.
    """

    position: int
    stream: str
    revision: int
    event_id: str
    request_id: str
    type: str
    message: Message | None
    event_time: datetime
    recorded_time: datetime
    actor: str
    causation_id: str
    correlation_id: str
    traceparent: str
    payload: bytes = b""


@dataclass(frozen=True)
class AppendResult:
    """Where the events of an append lie.

    `position` is that of the last event; `repeated` is True when they had been there before.
    """

    position: int
    positions: tuple[int, ...]
    revisions: tuple[int, ...]
    event_ids: tuple[str, ...]
    repeated: bool


@dataclass(frozen=True)
class Delivery:
    """What a subscription hands over at once.

    The log has been examined up to `examined_position`, so a reader may resume after it, also when no event matched.
    `live` is True once the whole history has been seen.
    """

    events: tuple[Event, ...]
    examined_position: int
    live: bool


class EventLog(Protocol):
    """The append-only log."""

    async def append(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        request_id: str,
        expected_revision: int | None,
        event_time: datetime | None = None,
    ) -> AppendResult:
        """Append events to a stream, all or none; they are durable when this returns.

        Repeating a request id with the same events answers with their positions. `expected_revision` 0 wants a new
        stream, None takes any. Raises Conflict when the stream is at another revision, AlreadyExists when the request
        id has been used for other events, InvalidArgument when a name or id is no good.
        """
        ...

    async def read_stream(self, stream: str, after_revision: int = 0, limit: int | None = None) -> list[Event]:
        """Return the events of a stream in order, at most `limit`; a stream that does not exist has none."""
        ...

    def subscribe(
        self,
        after_position: int,
        types: Sequence[type[Message]] = (),
        prefixes: Sequence[str] = (),
    ) -> AsyncGenerator[Delivery, None]:
        """Yield history after a position, then live events, without a gap and without end.

        Only events of these types in streams with one of these prefixes; empty means all.
        """
        ...

    async def head(self, then: datetime | None = None) -> int:
        """Return the position of the newest event, now or by recorded time then; 0 for none."""
        ...
