"""Read tables derived from the log: the effect of events and the cursor commit together.

Each version of a projection has a place of its own: on SQLite a file `<service>/projections/<name>-v<version>.db`, on
PostgreSQL a schema `projection_<name>_v<version>`. A new version is built beside the old one, which is dropped once the
new one has seen the whole history; a rebuild is dropping the place. Inside it the tables are named as in the metadata.
"""

import asyncio
import contextvars
import logging
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple

from google.protobuf.message import Message
from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, Table, insert, select, update
from sqlalchemy.exc import InterfaceError, OperationalError

from chassis.canonical import table_digest
from chassis.context import time_left
from chassis.databases import READERS, Database, open_database
from chassis.errors import Unavailable
from chassis.events import Delivery, Event, EventLog
from chassis.projection_places import Places

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_logger = logging.getLogger(__name__)
# How far the durable cursor may fall behind when no event matches.
_IDLE_POSITIONS = 1000
_WAIT_SECONDS = 10.0

_cursor_metadata = MetaData()
_cursor = Table(
    "lineal_cursor",
    _cursor_metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
)


class ProjectionBehind(Unavailable):
    """Read tables have not reached the position that a reader wants within its deadline."""


class ProjectionStopped(Unavailable):
    """An event could not be applied, so the read tables stay where they were."""


class Projection(Protocol):
    """Tables, and how events change them.

    `types` are the events it wants, empty for all. `version` grows when `apply` or the tables change.
    """

    name: str
    version: int
    metadata: MetaData
    types: Sequence[type[Message]]

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event: deterministic, without clock, network, randomness; artifacts may be read."""
        ...


@dataclass(frozen=True)
class Verification:
    """How rebuilt tables compare with the live ones at `position`."""

    name: str
    version: int
    position: int
    live_digest: str
    rebuilt_digest: str
    rows: int


class ProjectionRunner:
    """Keeps one projection up to date and answers queries on it."""

    def __init__(self, projection: Projection, log: EventLog, places: Places) -> None:
        self.projection = projection
        self.position = 0
        self.live = False
        self._log = log
        self._places = places
        self._changed = asyncio.Condition()
        self._threads = ThreadPoolExecutor(READERS + 1, thread_name_prefix=f"projection-{projection.name}")
        self._database: Database | None = None
        self._ready = False
        self._durable = 0
        self._stopped: ProjectionStopped | None = None

    async def run(self) -> None:
        """Apply events for ever. Returns only when an event cannot be applied; database failures are raised."""
        database = await self._in_thread(self._open)
        async with self._changed:
            self._ready = True
            self._changed.notify_all()
        async with aclosing(self._log.subscribe(self.position, self.projection.types)) as deliveries:
            async for delivery in deliveries:
                try:
                    position = await self._in_thread(self._deliver, database, delivery)
                except ProjectionStopped as stopped:
                    _logger.error("%s", stopped, exc_info=stopped.__cause__)
                    self._stopped = stopped
                    position = await self._in_thread(self._read, _position)
                async with self._changed:
                    self.position = position
                    self._changed.notify_all()
                if self._stopped:
                    return
                if delivery.live and not self.live:
                    await self._in_thread(self._places.drop_others, self.projection.name, self.projection.version)
                    async with self._changed:
                        self.live = True
                        self._changed.notify_all()

    async def became_live(self) -> None:
        """Return once the whole history has been read."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.live)

    async def check(self) -> None:
        """Raise while the history has not been read, or after an event could not be applied."""
        if self._stopped:
            raise self._stopped
        if not self.live:
            raise ProjectionBehind(f"{self.projection.name} is reading the log, at position {self.position}")

    async def wait_for(self, position: int) -> None:
        """Return once the tables have reached a position; ProjectionBehind after the call's deadline."""
        if self._ready and self.position >= position:
            return
        seconds = time_left()
        try:
            async with asyncio.timeout(_WAIT_SECONDS if seconds is None else seconds), self._changed:
                await self._changed.wait_for(
                    lambda: self._stopped is not None or (self._ready and self.position >= position)
                )
        except TimeoutError:
            raise ProjectionBehind(
                f"{self.projection.name} has read the log up to position {self.position}, {position} is asked for; "
                "try again, or give the call more time"
            ) from None
        if self._stopped and self.position < position:
            raise self._stopped

    async def query(self, fn: Callable[[Connection], T], min_position: int = 0) -> T:
        """Return what `fn` reads in one transaction, in a thread, once the tables have reached a position."""
        await self.wait_for(min_position)
        return await self._in_thread(self._read, fn)

    async def verify(self) -> Verification:
        """Rebuild the tables from the log in a scratch database and compare them with the live ones."""
        await self.wait_for(0)
        position, live, rows = await self._in_thread(self._read, self._digest)
        with tempfile.TemporaryDirectory(prefix="lineal-verify-") as folder:
            scratch = await self._in_thread(self._create, open_database(f"sqlite:///{Path(folder) / 'scratch.db'}"))
            try:
                await self._replay(scratch, position)
                with scratch.reader.connect() as connection:
                    _, rebuilt, _ = await self._in_thread(self._digest, connection)
            finally:
                scratch.close()
        return Verification(self.projection.name, self.projection.version, position, live, rebuilt, rows)

    async def close(self) -> None:
        """Close the connections to the database, after what is still running in threads."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._database:
            self._database.close()

    async def _in_thread(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        # Threads of its own, so that close can wait for work whose caller was cancelled.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: context.run(function, *arguments)
        )

    def _open(self) -> Database:
        database = self._database = self._places.open(self.projection.name, self.projection.version)
        self._create(database)
        with database.reader.begin() as connection:
            self.position = self._durable = _position(connection)
        return database

    def _create(self, database: Database) -> Database:
        with database.writer.begin() as connection:
            _cursor_metadata.create_all(connection)
            self.projection.metadata.create_all(connection)
            if connection.execute(select(_cursor.c.id)).first() is None:
                connection.execute(insert(_cursor).values(id=1, position=0))
        return database

    def _read(self, fn: Callable[[Connection], T]) -> T:
        assert self._database is not None
        with self._database.reader.begin() as connection:
            return fn(connection)

    def _digest(self, connection: Connection) -> tuple[int, str, int]:
        digest, rows = table_digest(connection, self.projection.metadata)
        return _position(connection), digest, rows

    async def _replay(self, scratch: Database, until: int) -> None:
        if until == 0:
            return
        async with aclosing(self._log.subscribe(0, self.projection.types)) as deliveries:
            async for delivery in deliveries:
                events = tuple(event for event in delivery.events if event.position <= until)
                await self._in_thread(self._apply, scratch, events, min(until, delivery.examined_position))
                if delivery.examined_position >= until:
                    return

    def _deliver(self, database: Database, delivery: Delivery) -> int:
        examined = delivery.examined_position
        if not delivery.events and examined - self._durable < _IDLE_POSITIONS:
            return examined
        self._durable = self._apply(database, delivery.events, examined)
        return max(examined, self._durable)

    def _apply(self, database: Database, events: Sequence[Event], examined: int) -> int:
        failed: tuple[int, Exception] | None = None
        with database.writer.connect() as connection:
            transaction = connection.begin()
            # Another replica may share these tables; whoever holds the cursor's row goes on from there.
            durable = _position(connection, lock=True)
            for n, event in enumerate(events):
                if event.position <= durable:
                    continue
                try:
                    self.projection.apply(connection, event)
                except (OperationalError, InterfaceError):
                    raise
                except Exception as error:
                    failed = n, error
                    break
            if failed is None:
                reached = max(durable, examined)
                connection.execute(update(_cursor).values(position=reached))
                transaction.commit()
                return reached
            transaction.rollback()
        n, cause = failed
        if n:
            self._apply(database, events[:n], events[n].position - 1)
        raise ProjectionStopped(
            f"{self.projection.name} cannot apply event {events[n].position} ({events[n].type} in {events[n].stream}): "
            f"{cause}; repair the projection and start the service again"
        ) from cause


def _position(connection: Connection, *, lock: bool = False) -> int:
    query: Any = select(_cursor.c.position)
    return int(connection.execute(query.with_for_update() if lock else query).scalar_one())
