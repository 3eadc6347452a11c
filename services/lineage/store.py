"""Where the records lie: one table, on SQLite or PostgreSQL, and files of what is sealed. Blocking.

`store_writer` writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Select,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)

from chassis.artifacts import ArtifactStore
from chassis.databases import Database, open_database
from lineal.merkle import Range
from services.lineage.event_ids import position_of
from services.lineage.sealed import SealedRecords
from services.lineage.store_writer import StoreWriter, take
from services.lineage.tables import Stored, events, nodes
from services.lineage.tree import TILE, TILE_LEVELS

__all__ = ["EventStore", "Filter", "Page", "Stored"]

_STORED = tuple(events.c[name] for name in Stored._fields)
_PAGE_BYTES = 1024 * 1024
_LEAF_TILE = (
    select(
        literal_column("0").label("level"),
        events.c.position.label("number"),
        case((events.c.position == bindparam("position"), events.c.record)).label("record"),
        events.c.leaf_hash.label("hash"),
    )
    .where(events.c.position > bindparam("leaves"))
    .order_by(events.c.position)
)
_NODE_TILE = (
    select(nodes.c.level, nodes.c.index.label("number"), cast(null(), LargeBinary).label("record"), nodes.c.hash)
    .where(nodes.c.level == TILE_LEVELS, nodes.c.index >= bindparam("nodes"))
    .order_by(nodes.c.index)
)
# What a proof reads, in one statement. It ends by a limit, written out, so that PostgreSQL sees that one plan is good
# for all of them: to plan each takes as long as to run it.
_LIMIT: ColumnElement[int] = literal_column(str(TILE))
_TILES = union_all(*(select(tile.limit(_LIMIT).subquery()) for tile in (_LEAF_TILE, _NODE_TILE))).order_by(
    "level", "number"
)
# To build a query takes longer than to run one of these.
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
_POSITION_OF = position_of("id").scalar_subquery()


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
        self._database: Database = open_database(url, synchronous="FULL", readers=8, snapshots=False)
        self._reader = self._database.reader
        self.sealed = SealedRecords(self._reader, artifacts)

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

    def rows(self, after: int, limit: int) -> list[Stored]:
        """Return whole rows after a position in order, as many as fit in one answer; sealed records are empty."""
        query = select(*_STORED).where(events.c.position > after)
        rows: list[Stored] = []
        size = 0
        with self._reader.begin() as connection:
            for row in connection.execute(query.order_by(events.c.position).limit(limit)):
                rows.append(_stored(row))
                size += len(rows[-1].record)
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

    def in_tiles(self, position: int, tiles: Sequence[Range]) -> tuple[bytes, list[list[bytes]]]:
        """Return the record at a position, empty for none, and the hashes of tiles of the tree, see `tree.tiles_of`."""
        (start, end), (first, last) = tiles
        with self._reader.begin() as connection:
            rows = connection.execute(_TILES, {"position": position, "leaves": start, "nodes": first}).all()
        record, leaves, above = b"", [], []
        for level, number, found, value in rows:
            if level and number < last:
                above.append(bytes(value))
            elif not level and number <= end:
                leaves.append(bytes(value))
                if number == position:
                    record = self.sealed.whole(position, bytes(found), leaves[-1])
        return record, [leaves, above]

    def by_event_id(self, event_id: bytes) -> Stored | None:
        """Return the record of an event."""
        sqlite = self._reader.dialect.name == "sqlite"
        mine = events.c.position == _POSITION_OF if sqlite else events.c.event_id == bindparam("id")
        return self._one(select(*_STORED).where(mine).params(id=event_id))

    def position_at(self, micros: int) -> int:
        """Return the position of the last record that was recorded at or before a time, 0 for none.

        Recorded times never go backwards, so this is a binary search by position and needs no index.
        """
        low, high = 0, self.head()
        with self._reader.begin() as connection:
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

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def _hashes(self, query: Select[Any], values: dict[str, int]) -> list[bytes]:
        with self._reader.begin() as connection:
            return [bytes(found) for found in connection.execute(query, values).scalars()]

    def _scalar(self, query: Select[Any]) -> int:
        with self._reader.begin() as connection:
            return int(connection.execute(query).scalar_one() or 0)

    def _one(self, query: Select[Any]) -> Stored | None:
        records, _ = self._read(query, 1)
        return records[0] if records else None

    def _read(self, query: Select[Any], limit: int) -> tuple[list[Stored], bool]:
        records: list[Stored] = []
        size = 0
        with self._reader.begin() as connection:
            for row in connection.execute(query):
                records.append(_stored(row))
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


def _stored(row: Sequence[Any]) -> Stored:
    return Stored(row[0], row[1], row[2], bytes(row[3]), row[4], row[5], bytes(row[6]), bytes(row[7]))


def _wanted(wanted: Filter) -> Select[Any]:
    query = select(*_STORED)
    if wanted.types:
        query = query.where(events.c.type.in_(wanted.types))
    if wanted.prefixes:
        query = query.where(
            or_(*(func.substr(events.c.stream, 1, len(prefix)) == prefix for prefix in wanted.prefixes))
        )
    return query
