"""The tables of the log, the same on SQLite and PostgreSQL, and what their rows are in memory."""

from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, UniqueConstraint

metadata = MetaData()
_position = BigInteger().with_variant(Integer(), "sqlite")
events = Table(
    "events",
    metadata,
    Column("position", _position, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("event_id", LargeBinary(16), nullable=False),
    Column("type", Text, nullable=False),
    Column("recorded_micros", BigInteger, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary(32), nullable=False),
    UniqueConstraint("stream", "revision", name="events_stream_revision"),
)
# SQLite has an index that the writer keeps, see event_ids.py.
Index("events_event_id", events.c.event_id, unique=True).ddl_if(dialect="postgresql")
# Nodes of the Merkle tree at the levels that are stored, see tree.py.
nodes = Table(
    "tree_nodes",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary(32), nullable=False),
)
# Ranges of events whose records lie in a Parquet file among the artifacts; in `events` they are empty, see sealing.py.
sealed_ranges = Table(
    "sealed_ranges",
    metadata,
    Column("first", _position, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    # Over the leaf hashes of the range.
    Column("merkle_root", LargeBinary(32), nullable=False),
    # Of the records, in bytes.
    Column("size", BigInteger, nullable=False),
    Column("sealed_micros", BigInteger, nullable=False),
)
# One row: the epoch of who writes. A new writer counts it up, and every commit wants its own.
log_writer = Table(
    "log_writer",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
)


# A named tuple, because making one takes a third of the time of a frozen dataclass, and every event makes one.
class Stored(NamedTuple):
    """One row of `events`: `record` are the bytes that are hashed; in the table they are empty once they are sealed."""

    position: int
    stream: str
    revision: int
    event_id: bytes
    type: str
    recorded_micros: int
    record: bytes
    leaf_hash: bytes


class SealedRange(NamedTuple):
    """Events whose records lie in the artifact `digest`, `size` bytes of them; the root is over their leaf hashes."""

    first: int
    last: int
    digest: str
    merkle_root: bytes
    size: int
    sealed_micros: int
