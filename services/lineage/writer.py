"""The one writer: collects concurrent appends and commits them together."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar, TypeVarTuple, Unpack

from chassis.clock import Clock
from chassis.database_inspection import Inspection
from chassis.errors import LinealError, Overloaded, Unavailable
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsResponse
from services.lineage.appender import Append, Appender
from services.lineage.store import EventStore, Filter, Page, Stored
from services.lineage.store_writer import DiskFull, StoreWriter, WriterExists
from services.lineage.tables import SealedRange
from services.lineage.tree import Tree

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
# Large groups wait for nothing while they are written; of two that take turns one arrives meanwhile.
_GROUP_EVENTS = 400
_TAIL_EVENTS = 2048
_TAIL_BYTES = 4 * 1024 * 1024
# A group is closed after so many rounds of the event loop that brought nothing, or so long after its first append.
_QUIET_ROUNDS = 4
_GATHER_SECONDS = 0.02
# How long a standby waits in the database before it asks again, and can be stopped.
_WAIT_SECONDS = 1.0
# How many times the right to write is used while it may be unused once.
_PINGS = 4


class WriterStopped(Unavailable):
    """The writer is starting or stopping."""


@dataclass(frozen=True, slots=True)
class _Pending:
    append: Append
    answer: "asyncio.Future[AppendEventsResponse]"


class Tail:
    """The newest records in memory, so that live subscribers do not read each commit from the database."""

    def __init__(self) -> None:
        self._records: deque[Stored] = deque()
        self._bytes = 0

    def extend(self, records: list[Stored]) -> None:
        """Add records that have been committed."""
        self._records.extend(records)
        self._bytes += sum(len(record.record) for record in records)
        while len(self._records) > _TAIL_EVENTS or self._bytes > _TAIL_BYTES:
            self._bytes -= len(self._records.popleft().record)

    def page(self, after: int, wanted: Filter, limit: int) -> Page | None:
        """Return the wanted ones of the next `limit` records, None when they are no longer all here."""
        if not self._records or after + 1 < self._records[0].position:
            return None
        first = after + 1 - self._records[0].position
        examined = list(islice(self._records, first, first + limit))
        return Page([r for r in examined if wanted.matches(r)], examined[-1].position if examined else after)


class Writer:
    """Appends to the log, and tells who waits that it has grown."""

    def __init__(
        self, store: EventStore, tree: Tree, clock: Clock, max_pending: int, timeout_seconds: float = 4.0
    ) -> None:
        self._store = store
        self._tree = tree
        self._clock = clock
        self._queue: asyncio.Queue[_Pending] = asyncio.Queue(max_pending)
        self._timeout = timeout_seconds
        self._grown = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lineage-writer")
        self._opened: tuple[StoreWriter, Appender] | None = None
        self._stopping = False
        self.tail = Tail()
        self.head = 0

    async def open(self) -> None:
        """Take the right to write and read the head; WriterExists when another process writes."""
        await self._take(0.0)

    async def open_later(self) -> None:
        """Wait until no other process writes, then do as `open` does."""
        while self._opened is None:
            with suppress(WriterExists):
                await self._take(_WAIT_SECONDS)

    async def append(self, append: Append) -> AppendEventsResponse:
        """Append events; they are durable when this returns.

        Raises Overloaded when too many appends wait already.
        """
        if self._stopping:
            raise WriterStopped("lineage is stopping; try again")
        pending = _Pending(append, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(pending)
        except asyncio.QueueFull:
            raise Overloaded(f"{self._queue.maxsize} appends wait already; try again") from None
        return await pending.answer

    async def seal(self, sealed: SealedRange) -> None:
        """Empty the records of a range that lie in an artifact from now on, between two groups."""
        assert self._opened is not None
        await self._call(self._opened[0].seal, sealed)

    async def inspect(self) -> Inspection:
        """Ask the connection that writes how the log is kept, between two groups."""
        assert self._opened is not None
        return await self._call(self._opened[0].inspect)

    async def run(self) -> None:
        """Commit group after group. A database that fails ends it: a restart reads what is really there."""
        assert self._opened is not None
        await self._call(self._opened[0].guard, self._timeout)
        while True:
            group = await self._group()
            try:
                await self._commit(group)
            except BaseException:
                # Those that wait are told now; otherwise the end of the process would cancel them, which says less.
                self._stopping = True
                while not self._queue.empty():
                    group.append(self._queue.get_nowait())
                lost = WriterStopped("the log could not be written to; send the same request again")
                for pending in group:
                    if not pending.answer.done():
                        pending.answer.set_exception(lost)
                raise

    async def grown(self, beyond: int) -> None:
        """Return once the log has grown beyond a position; WriterStopped when it will not."""
        async with self._grown:
            await self._grown.wait_for(lambda: self.head > beyond or self._stopping)
        if self.head <= beyond:
            raise WriterStopped("lineage is stopping; connect again")

    async def stop(self) -> None:
        """Refuse appends and let subscribers go."""
        async with self._grown:
            self._stopping = True
            self._grown.notify_all()

    async def close(self) -> None:
        """Give up the right to write."""
        if self._opened:
            await self._call(self._opened[0].close)
        self._thread.shutdown()

    async def _take(self, wait_seconds: float) -> None:
        self._opened = await self._call(self._open, wait_seconds)
        self.head = self._opened[1].head

    def _open(self, wait_seconds: float) -> tuple[StoreWriter, Appender]:
        writer = self._store.open_writer(wait_seconds)
        try:
            return writer, Appender(writer, self._clock, self._tree)
        except BaseException:
            writer.close()
            raise

    async def _first(self) -> _Pending:
        assert self._opened is not None
        while True:
            try:
                async with asyncio.timeout(self._timeout / _PINGS):
                    return await self._queue.get()
            except TimeoutError:
                await self._call(self._opened[0].ping)

    async def _group(self) -> list[_Pending]:
        group = [await self._first()]
        events = len(group[0].append.keys)
        quiet = 0
        # Calls that the event loop has begun to read join the group: a commit costs as much for one as for many.
        until = time.monotonic() + _GATHER_SECONDS
        while events < _GROUP_EVENTS and quiet < _QUIET_ROUNDS:
            quiet = quiet + 1 if self._queue.empty() else 0
            while events < _GROUP_EVENTS and not self._queue.empty():
                group.append(self._queue.get_nowait())
                events += len(group[-1].append.keys)
            if time.monotonic() > until:
                break
            await asyncio.sleep(0)
        return group

    async def _commit(self, group: list[_Pending]) -> None:
        assert self._opened is not None
        appender = self._opened[1]
        appends = [pending.append for pending in group]
        answers: list[AppendEventsResponse | LinealError]
        try:
            answers, records = await self._call(appender.append, appends)
        except DiskFull as full:
            answers, records = [full] * len(group), []
        if records:
            self.tail.extend(records)
            self.head = appender.head
        # Those that wait for an answer go first: their next appends are on the way while subscribers are told.
        for pending, answer in zip(group, answers, strict=True):
            if pending.answer.done():
                continue
            if isinstance(answer, LinealError):
                pending.answer.set_exception(answer)
            else:
                pending.answer.set_result(answer)
        if records:
            async with self._grown:
                self._grown.notify_all()

    async def _call(self, function: Callable[[Unpack[Ts]], T], *arguments: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
