"""Read tables derived from the log: the effect of events and the cursor commit together.

Each version of a projection has a place of its own: on SQLite a file `<service>/projections/<name>-v<version>.db`, on
PostgreSQL a schema `projection_<name>_v<version>`. A new version is built beside the old one, which is dropped once the
new one has seen the whole history; a rebuild is dropping the place. Inside it the tables are named as in the metadata.

An event that cannot be applied after five tries is parked with its error, and the rest goes on; `replay` applies it
later, out of its order. Where the database, or what an event needs, is away, nothing is parked: the process ends, and
whoever restarts it tries again.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeVar, TypeVarTuple

from google.protobuf.message import Message
from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import InterfaceError, OperationalError

from chassis import projection_state as state
from chassis.canonical import table_digest
from chassis.context import time_left
from chassis.database_inspection import Inspection, inspect_database
from chassis.databases import READERS, Database
from chassis.errors import Unavailable
from chassis.events import Delivery, Event, EventLog
from chassis.past import AsOf, PastTables
from chassis.projection_places import Places
from chassis.projection_state import Parked

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_logger = logging.getLogger(__name__)
# How far the durable cursor may fall behind when no event matches; a restart looks at so many again.
_IDLE_POSITIONS = 10_000
_WAIT_SECONDS = 10.0
_TRIES = 5
# Before the second try; it doubles with each.
_TRY_AGAIN_SECONDS = 0.01
# What is no fault of the event, and ends the process instead.
_AWAY = (OperationalError, InterfaceError, Unavailable, ConnectionError, TimeoutError)


class ProjectionBehind(Unavailable):
    """Read tables have not reached the position that a reader wants within its deadline."""


class _ApplyError(Exception):
    def __init__(self, event: Event, cause: Exception) -> None:
        super().__init__(f"event {event.position} ({event.type} in {event.stream}): {type(cause).__name__}: {cause}")
        self.event = event
        self.cause = cause


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
    """How rebuilt tables compare with the live ones at `position`, and how many events each could not apply."""

    name: str
    version: int
    position: int
    live_digest: str
    rebuilt_digest: str
    rows: int
    live_parked: int = 0
    rebuilt_parked: int = 0


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
        self._replayed = 0
        self._past = PastTables(self._created, self._replay)

    @property
    def still(self) -> tuple[int, int]:
        """The position, and how often a parked event took effect: while neither changes, this process applies nothing.

        It changes only after the tables have.
        """
        return self.position, self._replayed

    async def run(self) -> None:
        """Apply events for ever; what fails five times is parked. Failures of the database are raised."""
        database = await self._in_thread(self._open)
        async with self._changed:
            self._ready = True
            self._changed.notify_all()
        async with aclosing(self._log.subscribe(self.position, self.projection.types)) as deliveries:
            async for delivery in deliveries:
                position = await self._deliver(database, delivery)
                async with self._changed:
                    self.position = position
                    self._changed.notify_all()
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
        """Raise while the history has not been read."""
        if not self.live:
            raise ProjectionBehind(f"{self.projection.name} is reading the log, at position {self.position}")

    async def wait_for(self, position: int) -> None:
        """Return once the tables have reached a position; ProjectionBehind after the call's deadline."""
        if self._ready and self.position >= position:
            return
        seconds = time_left()
        try:
            async with asyncio.timeout(_WAIT_SECONDS if seconds is None else seconds), self._changed:
                await self._changed.wait_for(lambda: self._ready and self.position >= position)
        except TimeoutError:
            raise ProjectionBehind(
                f"{self.projection.name} has read the log up to position {self.position}, {position} is asked for; "
                "try again, or give the call more time"
            ) from None

    async def query(self, fn: Callable[[Connection], T], min_position: int = 0, as_of: AsOf | None = None) -> T:
        """Return what `fn` reads in one transaction, in a thread, once the tables have reached a position.

        As of a moment it reads tables that are rebuilt up to then, which takes as long as that part of the log does.
        """
        if as_of is not None:
            position = await as_of.position_in(self._log)
            await self.wait_for(max(position, min_position))
            return await self._past.read(position, lambda connection: self._in_thread(fn, connection))
        await self.wait_for(min_position)
        return await self._in_thread(self._read, fn)

    async def verify(self) -> Verification:
        """Rebuild the tables from the log in a scratch database and compare them with the live ones."""
        await self.wait_for(0)
        position, live, rows, live_parked = await self._in_thread(self._read, self._digest)
        scratch = PastTables(self._created, self._replay)
        try:
            _, rebuilt, _, rebuilt_parked = await scratch.read(
                position, lambda connection: self._in_thread(self._digest, connection)
            )
        finally:
            scratch.close()
        name, version = self.projection.name, self.projection.version
        return Verification(name, version, position, live, rebuilt, rows, live_parked, rebuilt_parked)

    async def parked(self) -> list[Parked]:
        """Return the events that could not be applied."""
        return await self.query(state.parked)

    async def replay(self, positions: Collection[int] = ()) -> list[int]:
        """Try parked events again, those at `positions` or all; return the positions of those that took effect.

        They are applied now, after later events: where their order mattered, `verify` finds a difference.
        """
        assert self._database is not None
        replayed = []
        for kept in await self.parked():
            if positions and kept.position not in positions:
                continue
            event = await self._event_at(kept.position)
            if event is None:
                continue
            if await self._in_thread(self._apply_parked, self._database, event):
                self._replayed += 1
                replayed.append(kept.position)
        return replayed

    async def inspect(self) -> Inspection:
        """Ask the database how it keeps the tables."""
        await self.wait_for(0)
        return await self._in_thread(self._inspect)

    async def close(self) -> None:
        """Close the connections to the database, after what is still running in threads."""
        await asyncio.to_thread(self._threads.shutdown)
        self._past.close()
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
            self.position = self._durable = state.position(connection)
        return database

    async def _created(self, scratch: Database) -> Database:
        return await self._in_thread(self._create, scratch)

    def _create(self, database: Database) -> Database:
        with database.writer.begin() as connection:
            state.create(connection)
            self.projection.metadata.create_all(connection)
        return database

    def _read(self, fn: Callable[[Connection], T]) -> T:
        assert self._database is not None
        with self._database.reader.begin() as connection:
            return fn(connection)

    def _inspect(self) -> Inspection:
        assert self._database is not None
        with self._database.writer.connect() as connection:
            return inspect_database(self.projection.name, connection, "NORMAL")

    def _digest(self, connection: Connection) -> tuple[int, str, int, int]:
        digest, rows = table_digest(connection, self.projection.metadata)
        return state.position(connection), digest, rows, state.parked_count(connection)

    async def _replay(self, scratch: Database, until: int) -> None:
        with scratch.reader.begin() as connection:
            after = state.position(connection)
        async with aclosing(self._log.subscribe(after, self.projection.types)) as deliveries:
            async for delivery in deliveries:
                events = tuple(event for event in delivery.events if event.position <= until)
                await self._apply_or_park(scratch, events, min(until, delivery.examined_position))
                if delivery.examined_position >= until:
                    return

    async def _event_at(self, position: int) -> Event | None:
        async with aclosing(self._log.subscribe(position - 1, self.projection.types)) as deliveries:
            async for delivery in deliveries:
                for event in delivery.events:
                    return event if event.position == position else None
                if delivery.examined_position >= position:
                    return None
        return None

    async def _deliver(self, database: Database, delivery: Delivery) -> int:
        examined = delivery.examined_position
        if not delivery.events and examined - self._durable < _IDLE_POSITIONS:
            return examined
        self._durable = await self._apply_or_park(database, delivery.events, examined)
        return max(examined, self._durable)

    async def _apply_or_park(self, database: Database, events: Sequence[Event], examined: int) -> int:
        failing, tries = 0, 0
        while True:
            try:
                return await self._in_thread(self._apply, database, events, examined)
            except _ApplyError as failed:
                tries = tries + 1 if failed.event.position == failing else 1
                failing = failed.event.position
                if tries >= _TRIES:
                    _logger.error("%s parks %s", self.projection.name, failed, exc_info=failed.cause)
                    await self._in_thread(self._park, database, failed, tries)
                else:
                    await asyncio.sleep(_TRY_AGAIN_SECONDS * 2 ** (tries - 1))

    def _apply(self, database: Database, events: Sequence[Event], examined: int) -> int:
        failed: tuple[int, Exception] | None = None
        with database.writer.connect() as connection:
            transaction = connection.begin()
            # Another replica may share these tables; whoever holds the cursor's row goes on from there.
            durable = state.position(connection, lock=True)
            for n, event in enumerate(events):
                if event.position <= durable:
                    continue
                try:
                    self.projection.apply(connection, event)
                except _AWAY:
                    raise
                except Exception as error:
                    failed = n, error
                    break
            if failed is None:
                reached = max(durable, examined)
                state.advance(connection, reached)
                transaction.commit()
                return reached
            transaction.rollback()
        n, cause = failed
        if n and events[n - 1].position > durable:
            self._apply(database, events[:n], events[n].position - 1)
        raise _ApplyError(events[n], cause)

    def _park(self, database: Database, failed: _ApplyError, tries: int) -> None:
        with database.writer.begin() as connection:
            if failed.event.position > state.position(connection, lock=True):
                state.park(connection, failed.event, tries, failed.cause)
                state.advance(connection, failed.event.position)

    def _apply_parked(self, database: Database, event: Event) -> bool:
        try:
            with database.writer.begin() as connection:
                state.position(connection, lock=True)
                if not state.take_back(connection, event.position):
                    return False
                self.projection.apply(connection, event)
                return True
        except _AWAY:
            raise
        except Exception as error:
            _logger.warning("%s cannot apply parked event %d", self.projection.name, event.position, exc_info=error)
            with database.writer.begin() as connection:
                state.fail_again(connection, event.position, error)
            return False
