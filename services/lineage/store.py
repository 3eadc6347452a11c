"""Where the records lie: one table, on SQLite or PostgreSQL. Blocking; one connection writes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    or_,
    select,
    text,
)

from chassis.databases import Database, open_database
from chassis.errors import RuleViolated
from lineal.merkle import Node

_metadata = MetaData()
_position = BigInteger().with_variant(Integer(), "sqlite")
_events = Table(
    "events",
    _metadata,
    Column("position", _position, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("event_id", LargeBinary(16), nullable=False),
    Column("type", Text, nullable=False),
    Column("recorded_micros", BigInteger, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary(32), nullable=False),
    UniqueConstraint("stream", "revision", name="events_stream_revision"),
    UniqueConstraint("event_id", name="events_event_id"),
)
# Nodes of the Merkle tree at the levels that are stored, see tree.py.
_nodes = Table(
    "tree_nodes",
    _metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary(32), nullable=False),
)
_INSERT = insert(_events)
_STORED = (
    _events.c.position,
    _events.c.stream,
    _events.c.revision,
    _events.c.type,
    _events.c.record,
    _events.c.leaf_hash,
)
# One lock per database, whatever its name: the number only has to be ours.
_LOCK = 0x4C494E45414C
_PAGE_BYTES = 1024 * 1024


class WriterExists(RuleViolated):
    """Another process writes to this log."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One record: `record` are the bytes that are hashed."""

    position: int
    stream: str
    revision: int
    type: str
    record: bytes
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class NewRecord:
    """One record to be written, with the columns it is found by."""

    stored: Stored
    event_id: bytes
    recorded_micros: int


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

    def __init__(self, url: str) -> None:
        self._database: Database = open_database(url, synchronous="FULL", readers=8)

    def open_writer(self) -> "StoreWriter":
        """Take the right to write; WriterExists when another process has it."""
        return StoreWriter(self._database.writer.connect())

    def head(self) -> int:
        """Return the position of the newest record, 0 for none."""
        return self._scalar(select(func.max(_events.c.position)))

    def revision(self, stream: str) -> int:
        """Return the revision of a stream, 0 when it does not exist."""
        return self._scalar(select(func.max(_events.c.revision)).where(_events.c.stream == stream))

    def read_page(self, after: int, until: int, wanted: Filter, limit: int) -> Page:
        """Return the wanted records of a range of positions, as many as fit in one answer."""
        query = _wanted(wanted).where(_events.c.position > after, _events.c.position <= until)
        records, cut = self._read(query.order_by(_events.c.position).limit(limit), limit)
        return Page(records, records[-1].position if cut else until)

    def read_newest(self, before: int, after: int, wanted: Filter, limit: int) -> tuple[list[Stored], bool]:
        """Return wanted records between two positions, newest first, and whether there may be more."""
        query = _wanted(wanted).where(_events.c.position < before, _events.c.position > after)
        return self._read(query.order_by(_events.c.position.desc()).limit(limit), limit)

    def read_stream(self, stream: str, after_revision: int, limit: int) -> list[Stored]:
        """Return records of one stream in order, as many as fit in one answer."""
        query = select(*_STORED).where(_events.c.stream == stream, _events.c.revision > after_revision)
        return self._read(query.order_by(_events.c.revision).limit(limit), limit)[0]

    def at(self, position: int) -> Stored | None:
        """Return the record at a position."""
        return self._one(select(*_STORED).where(_events.c.position == position))

    def by_event_id(self, event_id: bytes) -> Stored | None:
        """Return the record of an event."""
        return self._one(select(*_STORED).where(_events.c.event_id == event_id))

    def position_at(self, micros: int) -> int:
        """Return the position of the last record that was recorded at or before a time, 0 for none.

        Recorded times never go backwards, so this is a binary search by position and needs no index.
        """
        low, high = 0, self.head()
        with self._database.reader.begin() as connection:
            while low < high:
                middle = (low + high + 1) // 2
                query = select(_events.c.recorded_micros).where(_events.c.position == middle)
                if connection.execute(query).scalar_one() <= micros:
                    low = middle
                else:
                    high = middle - 1
        return low

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """Return the leaf hashes of the positions from `start` + 1 to `end`."""
        query = select(_events.c.leaf_hash).where(_events.c.position > start, _events.c.position <= end)
        return self._hashes(query.order_by(_events.c.position))

    def node_hashes(self, level: int, start: int, end: int) -> list[bytes]:
        """Return the hashes of the nodes [start, end) of a stored level."""
        within = (_nodes.c.level == level) & (_nodes.c.index >= start) & (_nodes.c.index < end)
        return self._hashes(select(_nodes.c.hash).where(within).order_by(_nodes.c.index))

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def _hashes(self, query: Select[Any]) -> list[bytes]:
        with self._database.reader.begin() as connection:
            return [bytes(found) for found in connection.execute(query).scalars()]

    def _scalar(self, query: Select[Any]) -> int:
        with self._database.reader.begin() as connection:
            return int(connection.execute(query).scalar_one() or 0)

    def _one(self, query: Select[Any]) -> Stored | None:
        records, _ = self._read(query, 1)
        return records[0] if records else None

    def _read(self, query: Select[Any], limit: int) -> tuple[list[Stored], bool]:
        records: list[Stored] = []
        size = 0
        with self._database.reader.begin() as connection:
            for row in connection.execute(query):
                records.append(Stored(row[0], row[1], row[2], row[3], bytes(row[4]), bytes(row[5])))
                size += len(records[-1].record)
                if size >= _PAGE_BYTES:
                    return records, True
        return records, len(records) == limit


class StoreWriter:
    """The connection that writes. On PostgreSQL it holds an advisory lock, which ends with its session."""

    def __init__(self, connection: Connection) -> None:
        # The lock belongs to the session, so the session must never go back to a pool.
        connection.detach()
        self._connection = connection
        if connection.dialect.name == "postgresql":
            with connection.begin():
                locked = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}).scalar_one()
            if not locked:
                connection.close()
                raise WriterExists("another lineage process writes to this database; stop it first")
        with connection.begin():
            _metadata.create_all(connection)

    def __enter__(self) -> Connection:
        self._transaction = self._connection.begin()
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._transaction.commit()
        else:
            self._transaction.rollback()

    def newest(self) -> tuple[int, int]:
        """Return position and recorded time (microseconds) of the newest record, zeros for none."""
        query = select(_events.c.position, _events.c.recorded_micros).order_by(_events.c.position.desc()).limit(1)
        with self as connection:
            row = connection.execute(query).first()
        return (row[0], row[1]) if row else (0, 0)

    def revisions(self, streams: Iterable[str]) -> dict[str, int]:
        """Return the revisions of streams, within the open transaction."""
        query = (
            select(_events.c.stream, func.max(_events.c.revision))
            .where(_events.c.stream.in_(list(streams)))
            .group_by(_events.c.stream)
        )
        return {row[0]: row[1] for row in self._connection.execute(query)}

    def existing(self, event_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the records of those events that are there, by event id, within the open transaction."""
        query = select(_events.c.event_id, _events.c.record).where(_events.c.event_id.in_(event_ids))
        return {bytes(row[0]): bytes(row[1]) for row in self._connection.execute(query)}

    def insert(self, records: Sequence[NewRecord]) -> None:
        """Write records, within the open transaction."""
        self._connection.execute(
            _INSERT,
            [
                {
                    "position": new.stored.position,
                    "stream": new.stored.stream,
                    "revision": new.stored.revision,
                    "event_id": new.event_id,
                    "type": new.stored.type,
                    "recorded_micros": new.recorded_micros,
                    "record": new.stored.record,
                    "leaf_hash": new.stored.leaf_hash,
                }
                for new in records
            ],
        )

    def insert_nodes(self, nodes: Sequence[tuple[Node, bytes]]) -> None:
        """Write nodes of the Merkle tree, within the open transaction."""
        rows = [{"level": node.level, "index": node.index, "hash": value} for node, value in nodes]
        self._connection.execute(insert(_nodes), rows)

    def close(self) -> None:
        """Give up the right to write."""
        self._connection.close()


def _wanted(wanted: Filter) -> Select[Any]:
    query = select(*_STORED)
    if wanted.types:
        query = query.where(_events.c.type.in_(wanted.types))
    if wanted.prefixes:
        query = query.where(
            or_(*(func.substr(_events.c.stream, 1, len(prefix)) == prefix for prefix in wanted.prefixes))
        )
    return query
