"""What was known then: the moment in the log that a read asks for, and read tables as they were at it."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from google.protobuf.message import Message
from sqlalchemy import Connection

from chassis import projection_state as state
from chassis.databases import Database, open_database
from chassis.errors import FieldViolation, InvalidArgument
from chassis.events import Event, EventLog

T = TypeVar("T")


@dataclass(frozen=True)
class AsOf:
    """A moment in the log: a position, or with None a time by the log's recorded time."""

    position: int | None
    time: datetime | None = None

    @classmethod
    def of(cls, request: Message) -> Self | None:
        """Return the moment of a request's as_of fields, None for now. Raises InvalidArgument when it names two."""
        asked: Any = request
        if not asked.HasField("as_of_time"):
            return cls(asked.as_of_position) if asked.as_of_position else None
        if asked.as_of_position:
            raise InvalidArgument(
                "as_of_position and as_of_time exclude each other",
                [FieldViolation("as_of_time", "give one of the two")],
            )
        return cls(None, asked.as_of_time.ToDatetime(tzinfo=UTC))

    async def position_in(self, log: EventLog) -> int:
        """Return the position of the newest event then, 0 for none."""
        return await log.head(self.time) if self.position is None else self.position


def until(events: Iterable[Event], as_of: AsOf | None) -> list[Event]:
    """Return the events that were there then; None is now."""
    if as_of is None:
        return list(events)
    if as_of.position is not None:
        return [event for event in events if event.position <= as_of.position]
    assert as_of.time is not None
    return [event for event in events if event.recorded_time <= as_of.time]


class PastTables:
    """Read tables in a scratch database that are moved to a position of the log, and stay there for the next reader.

    They are built by `create` and moved on by `replay`; for a position before theirs they are built again.
    """

    def __init__(
        self, create: Callable[[Database], Awaitable[Database]], replay: Callable[[Database, int], Awaitable[None]]
    ) -> None:
        self._create = create
        self._replay = replay
        self._lock = asyncio.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._database: Database | None = None

    async def read(self, position: int, read: Callable[[Connection], Awaitable[T]]) -> T:
        """Return what is read of the tables at a position; one reader at a time."""
        async with self._lock:
            if self._database is None or position < self._position(self._database):
                self.close()
                self._folder = tempfile.TemporaryDirectory(prefix="lineal-past-")
                path = Path(self._folder.name) / "scratch.db"
                self._database = await self._create(open_database(f"sqlite:///{path}"))
            if self._position(self._database) < position:
                await self._replay(self._database, position)
            with self._database.reader.begin() as connection:
                return await read(connection)

    def close(self) -> None:
        """Drop the tables."""
        if self._database is not None and self._folder is not None:
            self._database.close()
            self._folder.cleanup()
        self._database, self._folder = None, None

    def _position(self, database: Database) -> int:
        with database.reader.begin() as connection:
            return state.position(connection)
