"""What a projection keeps beside its own tables: its cursor, and the events that it could not apply.

Both change in the transaction that applies an event, so that each event has either taken effect or is parked, once.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from chassis.events import Event

_ERROR_CHARACTERS = 2000
# "IF NOT EXISTS" alone fails when two sessions find that it does not.
_LOCK = 0x4C494E4550524F4A

metadata = MetaData()
_cursor = Table(
    "lineal_cursor",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
)
_parked = Table(
    "lineal_parked",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("error", Text, nullable=False),
)

# Made once: every read of online features asks it.
_moment = select(_cursor.c.position, select(func.count()).select_from(_parked).scalar_subquery())


@dataclass(frozen=True)
class Parked:
    """An event that could not be applied, how often that was tried, and what the last try came to."""

    position: int
    stream: str
    type: str
    tries: int
    error: str


def create(connection: Connection) -> None:
    """Make the tables, with a cursor at 0, where they are not there; others wait until the transaction ends."""
    lock_places(connection)
    metadata.create_all(connection)
    if connection.execute(select(_cursor.c.id)).first() is None:
        connection.execute(insert(_cursor).values(id=1, position=0))


def lock_places(connection: Connection) -> None:
    """Let replicas that start at once make schemas and tables one after the other; SQLite does so by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def position(connection: Connection, *, lock: bool = False) -> int:
    """Return the cursor; with `lock` nobody else applies events until this transaction ends."""
    query: Any = select(_cursor.c.position)
    return int(connection.execute(query.with_for_update() if lock else query).scalar_one())


def moment(connection: Connection) -> tuple[int, int]:
    """Return the cursor and how many events are parked: while neither changes, nor do the tables.

    An event changes them together with the cursor, or, where it was parked, as it is taken back.
    """
    cursor, waiting = connection.execute(_moment).one()
    return int(cursor), int(waiting)


def advance(connection: Connection, reached: int) -> None:
    """Set the cursor."""
    connection.execute(update(_cursor).values(position=reached))


def park(connection: Connection, event: Event, tries: int, error: Exception) -> None:
    """Keep an event that could not be applied."""
    values = {"position": event.position, "stream": event.stream, "type": event.type}
    connection.execute(insert(_parked).values(**values, tries=tries, error=_told(error)))


def fail_again(connection: Connection, at: int, error: Exception) -> None:
    """Count another try of a parked event."""
    here = _parked.c.position == at
    connection.execute(update(_parked).where(here).values(tries=_parked.c.tries + 1, error=_told(error)))


def take_back(connection: Connection, at: int) -> bool:
    """Forget a parked event that is being applied; return whether it was still parked."""
    return connection.execute(delete(_parked).where(_parked.c.position == at)).rowcount > 0


def parked(connection: Connection) -> list[Parked]:
    """Return the parked events in order of position."""
    return [Parked(*row) for row in connection.execute(select(_parked).order_by(_parked.c.position))]


def parked_count(connection: Connection) -> int:
    """Return how many events are parked."""
    return int(connection.execute(select(func.count()).select_from(_parked)).scalar_one())


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]
