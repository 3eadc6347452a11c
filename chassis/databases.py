"""SQLAlchemy engines for SQLite and PostgreSQL, with the settings that keep what was committed.

SQLite: WAL; the writer begins IMMEDIATE, because a transaction that reads first and then writes fails at once with
"database is locked" whatever the timeout; only the writer checkpoints (a bug of SQLite before 3.51.3 can corrupt a
database in which two connections do). PostgreSQL: a connection that the server has closed is noticed without asking it.
"""

import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import DateTime, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.types import TypeDecorator

READERS = 4
_BUSY_MILLIS = 10_000
# Of 4 KiB; four times what SQLite does by itself, so that four times as many commits share a checkpoint and its syncs.
_CHECKPOINT_PAGES = 4_000
# A connection that was not used for so long may have been forgotten on the way to the server.
_TRUSTED_SECONDS = 30.0


class UtcDateTime(TypeDecorator[datetime]):
    """An instant in UTC to the microsecond, the same on SQLite and PostgreSQL."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Refuse a time without a zone, with ValueError."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; Lineal keeps all times in UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Return the instant in UTC; SQLite gives it back without a zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@dataclass(frozen=True)
class Database:
    """A place for tables: `writer` for the one who writes, `reader` for everybody else."""

    writer: Engine
    reader: Engine

    def close(self) -> None:
        """Close all connections."""
        self.writer.dispose()
        self.reader.dispose()


def open_database(
    url: str,
    *,
    schema: str | None = None,
    synchronous: str = "NORMAL",
    readers: int = READERS,
    snapshots: bool = True,
) -> Database:
    """Open a database by its URL, `sqlite:///file` or `postgresql+psycopg://...`.

    `schema` is a schema of PostgreSQL that unqualified names belong to; `synchronous` is SQLite's: FULL for what is
    true nowhere else, NORMAL for what can be rebuilt. Without `snapshots` each statement of a reader is a transaction
    of its own on PostgreSQL, which saves two round trips where one statement reads all.
    """
    parsed = make_url(url)
    # Readers are taken last in, first out: the one used last has plans and pages at hand.
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        writer = create_engine(parsed, pool_size=1, max_overflow=0)
        _on_connect(writer, _writer_pragmas(synchronous), "BEGIN IMMEDIATE")
        reader = create_engine(parsed, pool_size=readers, max_overflow=0, pool_use_lifo=True)
        _on_connect(reader, ("PRAGMA query_only=ON", "PRAGMA wal_autocheckpoint=0"), "BEGIN")
        return Database(writer, reader)
    arguments = {"options": f"-csearch_path={schema}"} if schema else {}
    writer = create_engine(parsed, pool_size=1, max_overflow=0, connect_args=arguments)
    reader = create_engine(
        parsed,
        pool_size=readers,
        max_overflow=0,
        pool_use_lifo=True,
        connect_args=arguments,
        # As SQLite has it, too: all that one transaction reads is of one moment.
        isolation_level="REPEATABLE READ" if snapshots else "AUTOCOMMIT",
    )
    for engine in (writer, reader):
        _replace_lost(engine)
    return Database(writer, reader)


def _replace_lost(engine: Engine) -> None:
    # As pool_pre_ping does, but without a round trip where there is no reason: the server never speaks first, except to
    # say good-bye or to hang up, and that has arrived by itself.
    def check(connection: Any, record: Any, _proxy: Any) -> None:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if poll.poll(0) or time.monotonic() - record.info.get("used", 0.0) > _TRUSTED_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError("the server has closed the connection") from error

    def returned(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    listen: Callable[..., None] = event.listen
    listen(engine, "checkout", check)
    listen(engine, "checkin", returned)


def _writer_pragmas(synchronous: str) -> tuple[str, ...]:
    return (
        "PRAGMA journal_mode=WAL",
        f"PRAGMA synchronous={synchronous}",
        "PRAGMA foreign_keys=ON",
        f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}",
    )


def _on_connect(engine: Engine, pragmas: tuple[str, ...], begin: str) -> None:
    # The recipe of SQLAlchemy's documentation: the driver must not begin transactions on its own.
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (f"PRAGMA busy_timeout={_BUSY_MILLIS}", *pragmas):
            cursor.execute(pragma)
        cursor.close()

    def began(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    listen: Callable[..., None] = event.listen
    listen(engine, "connect", connected)
    listen(engine, "begin", began)
