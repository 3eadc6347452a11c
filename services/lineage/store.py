"""Where the records lie: one table, on SQLite or PostgreSQL, and files of what is sealed. Blocking.

`store_writer` writes.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, func, or_, select

from chassis.artifacts import ArtifactStore
from chassis.databases import Database, open_database
from services.lineage.sealed import SealedRecords
from services.lineage.store_writer import StoreWriter, take
from services.lineage.tables import NewRecord, Stored, events, nodes

__all__ = ["EventStore", "Filter", "Page", "Stored"]

_STORED = (
    events.c.position,
    events.c.stream,
    events.c.revision,
    events.c.type,
    events.c.record,
    events.c.leaf_hash,
)
_PAGE_BYTES = 1024 * 1024
# Every proof reads these, and to build a query takes longer than to run one of them.
_RECORD = case((events.c.position == bindparam("position"), events.c.record))
_TILE = (
    select(*(_RECORD if column is events.c.record else column for column in _STORED))
    .where(events.c.position > bindparam("start"), events.c.position <= bindparam("end"))
    .order_by(events.c.position)
)
_LEAF_HASHES = (
    select(events.c.leaf_hash)
    .where(events.c.position > bindparam("start"), events.c.position <= bindparam("end"))
    .order_by(events.c.position)
)
_NODE_HASHES = (
    select(nodes.c.hash)
    .where(nodes.c.level == bindparam("level"))
    .where(nodes.c.index >= bindparam("start"), nodes.c.index < bindparam("end"))
    .order_by(nodes.c.index)
)


@dataclass(frozen=True, slots=True)
class Page:
    """Records in order of position; the log has been examined up to `examined`."""

    records: list[Stored]
    examined: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records: of these types, in streams with one of these prefixes; empty is all."""

    types: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def matches(self, record: Stored) -> bool:
        """Tell whether a record is wanted."""
        if self.types and record.type not in self.types:
            return False
        return not self.prefixes or record.stream.startswith(self.prefixes)


class EventStore:
    """Reads the log, and opens the one connection that writes."""

    def __init__(self, url: str, artifacts: ArtifactStore | None = None) -> None:
        self._database: Database = open_database(url, synchronous="FULL", readers=8)
        reader = self._database.reader
        # A single statement needs no transaction around it, which on PostgreSQL is two more round trips.
        on_postgres = reader.dialect.name == "postgresql"
        self._single = reader.execution_options(isolation_level="AUTOCOMMIT") if on_postgres else reader
        self._shared = threading.local()
        self.sealed = SealedRecords(reader, artifacts)

    def open_writer(self, wait_seconds: float = 0.0) -> StoreWriter:
        """Take the right to write; WriterExists when another process has it and keeps it for that long."""
        connection = self._database.writer.connect()
        # The right belongs to the session, so the session must never go back to a pool.
        connection.detach()
        try:
            return take(connection, wait_seconds, self.sealed.record)
        except BaseException:
            connection.close()
            raise

    def head(self) -> int:
        """Return the position of the newest record, 0 for none."""
        return self._scalar(select(func.max(events.c.position)))

    def revision(self, stream: str) -> int:
        """Return the revision of a stream, 0 when it does not exist."""
        return self._scalar(select(func.max(events.c.revision)).where(events.c.stream == stream))

    def read_page(self, after: int, until: int, wanted: Filter, limit: int) -> Page:
        """Return the wanted records of a range of positions, as many as fit in one answer."""
        query = _wanted(wanted).where(events.c.position > after, events.c.position <= until)
        records, cut = self._read(query.order_by(events.c.position).limit(limit), limit)
        return Page(records, records[-1].position if cut else until)

    def rows(self, after: int, limit: int) -> list[NewRecord]:
        """Return whole rows after a position in order, as many as fit in one answer; sealed records are empty."""
        query = select(*_STORED, events.c.event_id, events.c.recorded_micros).where(events.c.position > after)
        rows: list[NewRecord] = []
        size = 0
        with self._single.begin() as connection:
            for row in connection.execute(query.order_by(events.c.position).limit(limit)):
                stored = Stored(row[0], row[1], row[2], row[3], bytes(row[4]), bytes(row[5]))
                rows.append(NewRecord(stored, bytes(row[6]), row[7]))
                size += len(stored.record)
                if size >= _PAGE_BYTES:
                    break
        return rows

    def read_newest(self, before: int, after: int, wanted: Filter, limit: int) -> tuple[list[Stored], bool]:
        """Return wanted records between two positions, newest first, and whether there may be more."""
        query = _wanted(wanted).where(events.c.position < before, events.c.position > after)
        return self._read(query.order_by(events.c.position.desc()).limit(limit), limit)

    def read_stream(self, stream: str, after_revision: int, limit: int) -> list[Stored]:
        """Return records of one stream in order, as many as fit in one answer."""
        query = select(*_STORED).where(events.c.stream == stream, events.c.revision > after_revision)
        return self._read(query.order_by(events.c.revision).limit(limit), limit)[0]

    def at(self, position: int) -> Stored | None:
        """Return the record at a position."""
        return self._one(select(*_STORED).where(events.c.position == position))

    def in_tile(self, position: int, start: int, end: int) -> tuple[Stored | None, list[bytes]]:
        """Return the record at a position and the leaf hashes of the positions from `start` + 1 to `end`."""
        with self._connected() as connection:
            rows = connection.execute(_TILE, {"position": position, "start": start, "end": end}).all()
        found = [
            Stored(row[0], row[1], row[2], row[3], bytes(row[4]), bytes(row[5])) for row in rows if row[0] == position
        ]
        return self.sealed.filled(found[0]) if found else None, [bytes(row[5]) for row in rows]

    def by_event_id(self, event_id: bytes) -> Stored | None:
        """Return the record of an event."""
        return self._one(select(*_STORED).where(events.c.event_id == event_id))

    def position_at(self, micros: int) -> int:
        """Return the position of the last record that was recorded at or before a time, 0 for none.

        Recorded times never go backwards, so this is a binary search by position and needs no index.
        """
        low, high = 0, self.head()
        with self._database.reader.begin() as connection:
            while low < high:
                middle = (low + high + 1) // 2
                query = select(events.c.recorded_micros).where(events.c.position == middle)
                if connection.execute(query).scalar_one() <= micros:
                    low = middle
                else:
                    high = middle - 1
        return low

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """Return the leaf hashes of the positions from `start` + 1 to `end`."""
        return self._hashes(_LEAF_HASHES, {"start": start, "end": end})

    def node_hashes(self, level: int, start: int, end: int) -> list[bytes]:
        """Return the hashes of the nodes [start, end) of a stored level."""
        return self._hashes(_NODE_HASHES, {"level": level, "start": start, "end": end})

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the reads of records and hashes within the block, in this thread, share a connection.

        To take one from the pool costs as much as to read a row, on PostgreSQL a round trip more.
        """
        with self._single.begin() as connection:
            self._shared.connection = connection
            try:
                yield
            finally:
                del self._shared.connection

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def _connected(self) -> AbstractContextManager[Connection]:
        shared: Connection | None = getattr(self._shared, "connection", None)
        return nullcontext(shared) if shared else self._single.begin()

    def _hashes(self, query: Select[Any], values: dict[str, int]) -> list[bytes]:
        with self._connected() as connection:
            return [bytes(found) for found in connection.execute(query, values).scalars()]

    def _scalar(self, query: Select[Any]) -> int:
        with self._single.begin() as connection:
            return int(connection.execute(query).scalar_one() or 0)

    def _one(self, query: Select[Any]) -> Stored | None:
        records, _ = self._read(query, 1)
        return records[0] if records else None

    def _read(self, query: Select[Any], limit: int) -> tuple[list[Stored], bool]:
        records: list[Stored] = []
        size = 0
        with self._single.begin() as connection:
            for row in connection.execute(query):
                records.append(Stored(row[0], row[1], row[2], row[3], bytes(row[4]), bytes(row[5])))
                size += len(records[-1].record)
                if size >= _PAGE_BYTES:
                    break
        return self._filled(records, size >= _PAGE_BYTES or len(records) == limit)

    def _filled(self, records: list[Stored], cut: bool) -> tuple[list[Stored], bool]:
        """Add the records that are sealed, as many as fit in one answer."""
        size = 0
        for n, stored in enumerate(records):
            records[n] = self.sealed.filled(stored)
            size += len(records[n].record)
            if size >= _PAGE_BYTES and n + 1 < len(records):
                return records[: n + 1], True
        return records, cut


def _wanted(wanted: Filter) -> Select[Any]:
    query = select(*_STORED)
    if wanted.types:
        query = query.where(events.c.type.in_(wanted.types))
    if wanted.prefixes:
        query = query.where(
            or_(*(func.substr(events.c.stream, 1, len(prefix)) == prefix for prefix in wanted.prefixes))
        )
    return query
