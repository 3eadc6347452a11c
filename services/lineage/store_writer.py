"""The one connection that writes.

Who writes is settled twice. A lock says who may begin: on PostgreSQL an advisory lock of the session, on SQLite the
lock of a file beside the database. A fencing epoch says whose commits count: each new writer counts it up, and a group
is written only where the epoch is still its own, in the same transaction. So a writer that was frozen can write nothing
once another has taken over, whatever it believes.

On PostgreSQL a group is one statement, so no transaction is ever open while this process does something else, and the
session has to be used every few seconds or the server ends it, and its lock with it: a frozen writer holds up nobody.
"""

import fcntl
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import psycopg
from sqlalchemy import Connection

from chassis.database_inspection import Inspection, inspect_database
from chassis.errors import Overloaded, RuleViolated
from lineal.merkle import Node
from services.lineage.event_ids import EventIds
from services.lineage.tables import SealedRange, Stored, metadata

# One lock per database, whatever its name: the number only has to be ours.
_LOCK = 0x4C494E45414C
# How long a session may be unused between taking the right to write and the first group.
_STARTING_SECONDS = 60.0
_TAKE_OVER = (
    "INSERT INTO log_writer (id, epoch) VALUES (1, 1)"
    " ON CONFLICT (id) DO UPDATE SET epoch = log_writer.epoch + 1 RETURNING epoch"
)
_NEWEST = "SELECT position, recorded_micros FROM events ORDER BY position DESC LIMIT 1"
_COLUMNS = ", ".join(Stored._fields)

_REVISION = "SELECT max(revision) FROM events WHERE stream = ?"
_RECORD = "SELECT record FROM events WHERE position = ?"
_INSERT = f"INSERT INTO events ({_COLUMNS}) VALUES "
_VALUES = "(?, ?, ?, ?, ?, ?, ?, ?)"
# Each statement gives up the interpreter's lock and has to win it back, so rows share one.
_ROWS_AT_ONCE = 400
# The index of event ids is asked all over: 32 MiB hold that of a million.
_CACHE = "PRAGMA cache_size=-32768"
_INSERT_NODES = 'INSERT INTO tree_nodes (level, "index", hash) VALUES '

_PG_REVISIONS = "SELECT stream, max(revision) FROM events WHERE stream = ANY(%s) GROUP BY stream"
_PG_EXISTING = "SELECT event_id, position, record FROM events WHERE event_id = ANY(%b)"
_PG_COMMIT = f"""
WITH fence AS MATERIALIZED (SELECT FROM log_writer WHERE epoch = %s FOR SHARE),
completed AS (
    INSERT INTO tree_nodes (level, "index", hash)
    SELECT n.* FROM fence, unnest(%b::integer[], %b::bigint[], %b::bytea[]) AS n
)
INSERT INTO events ({_COLUMNS})
SELECT e.* FROM fence, unnest(
    %b::bigint[], %b::text[], %b::bigint[], %b::bytea[], %b::text[], %b::bigint[], %b::bytea[], %b::bytea[]
) AS e
"""

_RANGE = ", ".join(SealedRange._fields)
# Shorter rows take the places of the long ones, so that whole pages become free for the next events.
_SEAL = (
    f"CREATE TEMP TABLE sealing AS SELECT {_COLUMNS} FROM events WHERE position BETWEEN :first AND :last",
    "UPDATE sealing SET record = x''",
    "DELETE FROM events WHERE position BETWEEN :first AND :last",
    f"INSERT INTO events ({_COLUMNS}) SELECT * FROM sealing ORDER BY position",
    "DROP TABLE sealing",
    f"INSERT INTO sealed_ranges ({_RANGE}) VALUES (:first, :last, :digest, :merkle_root, :size, :sealed_micros)",
)
_PG_SEAL = f"""
WITH fence AS MATERIALIZED (SELECT FROM log_writer WHERE epoch = %(epoch)s FOR SHARE),
emptied AS (UPDATE events SET record = ''::bytea FROM fence WHERE position BETWEEN %(first)s AND %(last)s)
INSERT INTO sealed_ranges ({_RANGE})
SELECT %(first)s, %(last)s, %(digest)s, %(merkle_root)b, %(size)s, %(sealed_micros)s FROM fence
"""

# Returns a record that is sealed, by its position.
Unsealed = Callable[[int], bytes]


class WriterExists(RuleViolated):
    """Another process writes to this log."""


class DiskFull(Overloaded):
    """There is no room for more events."""


class WriterDeposed(RuntimeError):
    """Another process has taken over, so nothing was written."""


class EventIdThere(Exception):
    """One of the event ids is in the log already, so nothing was written."""


class StoreWriter(Protocol):
    """Writes to the log until it is closed or deposed. Blocking, one thread at a time.

    Any error that is not named is one of the database: what it has kept is known only to who asks it anew.
    """

    epoch: int

    def guard(self, seconds: float) -> None:
        """From now on lose the right to write when it is not used for so long, where the database can see to that."""
        ...

    def ping(self) -> None:
        """Use the right to write without writing."""
        ...

    def newest(self) -> tuple[int, int]:
        """Return position and recorded time (microseconds) of the newest record, zeros for none."""
        ...

    def revisions(self, streams: Iterable[str]) -> dict[str, int]:
        """Return the revisions of those streams that exist."""
        ...

    def existing(self, event_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the records of those events that are there, by event id."""
        ...

    def commit(self, records: Sequence[Stored], completed: Sequence[tuple[Node, bytes]]) -> None:
        """Write records and nodes of the Merkle tree, durably, all or none.

        Raises EventIdThere, DiskFull or WriterDeposed, and nothing is written.
        """
        ...

    def seal(self, sealed: SealedRange) -> None:
        """Empty the records of a range that lie in an artifact from now on, in one transaction.

        Raises WriterDeposed, and nothing is changed.
        """
        ...

    def inspect(self) -> Inspection:
        """Ask the database how it keeps the log."""
        ...

    def close(self) -> None:
        """Give up the right to write."""
        ...


def take(connection: Connection, wait_seconds: float, unsealed: Unsealed) -> StoreWriter:
    """Take the right to write; WriterExists when another process keeps it for that long (SQLite: does not wait)."""
    kind = PostgresWriter if connection.dialect.name == "postgresql" else SqliteWriter
    return kind(connection, wait_seconds, unsealed)


class SqliteWriter:
    """Writes to a file."""

    def __init__(self, connection: Connection, _wait_seconds: float, unsealed: Unsealed) -> None:
        self._connection = connection
        self._unsealed = unsealed
        database = connection.engine.url.database
        self._lock = _locked(Path(f"{database}.writer")) if database and database != ":memory:" else None
        raw: Any = connection.connection.dbapi_connection
        self._raw: sqlite3.Connection = raw
        self._raw.execute(_CACHE)
        try:
            with connection.begin():
                metadata.create_all(connection)
                (self.epoch,) = self._raw.execute(_TAKE_OVER).fetchone()
                self._ids = EventIds(self._raw)
        except BaseException:
            self.close()
            raise

    def guard(self, seconds: float) -> None:
        """Do nothing: the lock of a file ends with its process, and a frozen one is not taken over from."""

    def ping(self) -> None:
        """Do nothing."""

    def newest(self) -> tuple[int, int]:
        """Return position and recorded time of the newest record."""
        row = self._raw.execute(_NEWEST).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    def revisions(self, streams: Iterable[str]) -> dict[str, int]:
        """Return the revisions of those streams that exist."""
        found = ((stream, self._raw.execute(_REVISION, (stream,)).fetchone()[0]) for stream in streams)
        return {stream: revision for stream, revision in found if revision is not None}

    def existing(self, event_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the records of those events that are there."""
        found = self._ids.positions(event_ids)
        return {
            key: self._raw.execute(_RECORD, (position,)).fetchone()[0] or self._unsealed(position)
            for key, position in found.items()
        }

    def commit(self, records: Sequence[Stored], completed: Sequence[tuple[Node, bytes]]) -> None:
        """Write records and nodes in one transaction."""
        if self._ids.positions([new.event_id for new in records]):
            raise EventIdThere
        self._raw.execute("BEGIN IMMEDIATE")
        try:
            if self._raw.execute("SELECT epoch FROM log_writer").fetchone() != (self.epoch,):
                raise _deposed(self.epoch)
            written = self._ids.write()
            for start in range(0, len(records), _ROWS_AT_ONCE):
                rows = records[start : start + _ROWS_AT_ONCE]
                statement = _INSERT + ", ".join([_VALUES] * len(rows))
                self._raw.execute(statement, list(chain.from_iterable(rows)))
            for start in range(0, len(completed), _ROWS_AT_ONCE):
                nodes = completed[start : start + _ROWS_AT_ONCE]
                values = [value for node, digest in nodes for value in (node.level, node.index, digest)]
                self._raw.execute(_INSERT_NODES + ", ".join(["(?, ?, ?)"] * len(nodes)), values)
            self._raw.execute("COMMIT")
        except BaseException as error:
            # An error of the disk may have rolled back already.
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise _full() from error
            raise
        self._ids.committed(written, records)

    def seal(self, sealed: SealedRange) -> None:
        """Empty the records of a range."""
        self._raw.execute("BEGIN IMMEDIATE")
        try:
            if self._raw.execute("SELECT epoch FROM log_writer").fetchone() != (self.epoch,):
                raise _deposed(self.epoch)
            for statement in _SEAL:
                self._raw.execute(statement, sealed._asdict())
            self._raw.execute("COMMIT")
        except BaseException as error:
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise _full() from error
            raise

    def inspect(self) -> Inspection:
        """Ask the database how it keeps the log."""
        return inspect_database("log", self._connection, "FULL")

    def close(self) -> None:
        """Give up the right to write."""
        self._connection.close()
        if self._lock:
            self._lock.close()


class PostgresWriter:
    """Writes in a session that holds an advisory lock."""

    def __init__(self, connection: Connection, wait_seconds: float, unsealed: Unsealed) -> None:
        self._connection = connection
        self._unsealed = unsealed
        raw: Any = connection.connection.dbapi_connection
        self._raw: psycopg.Connection[Any] = raw
        self._raw.autocommit = True
        self._lock(wait_seconds)
        self.guard(_STARTING_SECONDS)
        with connection.begin():
            metadata.create_all(connection)
        self.epoch: int = self._raw.execute(_TAKE_OVER).fetchone()[0]

    def guard(self, seconds: float) -> None:
        """Let the server end this session when it is not used for so long, and give no statement much longer."""
        millis = round(seconds * 1000)
        for name, value in [
            ("idle_session_timeout", millis),
            ("idle_in_transaction_session_timeout", millis),
            ("lock_timeout", millis),
            ("statement_timeout", millis * 6),
        ]:
            self._raw.execute("SELECT set_config(%s, %s, false)", (name, str(value)))

    def ping(self) -> None:
        """Use the session."""
        self._raw.execute("SELECT 1")

    def newest(self) -> tuple[int, int]:
        """Return position and recorded time of the newest record."""
        row = self._raw.execute(_NEWEST).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    def revisions(self, streams: Iterable[str]) -> dict[str, int]:
        """Return the revisions of those streams that exist."""
        return dict(self._raw.execute(_PG_REVISIONS, (list(streams),), binary=True).fetchall())

    def existing(self, event_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the records of those events that are there."""
        found = self._raw.execute(_PG_EXISTING, (list(event_ids),), binary=True).fetchall()
        return {key: record or self._unsealed(position) for key, position, record in found}

    def commit(self, records: Sequence[Stored], completed: Sequence[tuple[Node, bytes]]) -> None:
        """Write records and nodes with one statement, which is a transaction of its own."""
        columns = map(list, zip(*records, strict=True))
        levels, indexes, hashes = [], [], []
        for node, value in completed:
            levels.append(node.level)
            indexes.append(node.index)
            hashes.append(value)
        try:
            done = self._raw.execute(_PG_COMMIT, (self.epoch, levels, indexes, hashes, *columns), prepare=True)
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name == "events_event_id":
                raise EventIdThere from error
            raise
        except psycopg.errors.DiskFull as error:
            raise _full() from error
        if done.rowcount != len(records):
            raise _deposed(self.epoch)

    def seal(self, sealed: SealedRange) -> None:
        """Empty the records of a range with one statement."""
        try:
            done = self._raw.execute(_PG_SEAL, {"epoch": self.epoch, **sealed._asdict()})
        except psycopg.errors.DiskFull as error:
            raise _full() from error
        if done.rowcount != 1:
            raise _deposed(self.epoch)

    def inspect(self) -> Inspection:
        """Ask the database how it keeps the log."""
        return inspect_database("log", self._connection, "FULL")

    def close(self) -> None:
        """Give up the right to write."""
        self._connection.close()

    def _lock(self, wait_seconds: float) -> None:
        self._raw.execute("SELECT set_config('lock_timeout', %s, false)", (str(max(1, round(wait_seconds * 1000))),))
        try:
            self._raw.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        except psycopg.errors.LockNotAvailable:
            raise WriterExists("another lineage process writes to this database; stop it first") from None


def _locked(path: Path) -> Any:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise WriterExists(
            f"another lineage process writes to this database (it holds {path}); stop it first"
        ) from None
    return file


def _deposed(mine: int) -> WriterDeposed:
    return WriterDeposed(f"another process has taken over from the writer of epoch {mine}; nothing was written")


def _full() -> DiskFull:
    return DiskFull("the disk of the event log is full; free space and send the same request again")
