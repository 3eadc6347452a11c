"""How far the bridge has read the log; durable, since what it does is outside of any projection."""

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, insert, select, update

from chassis.databases import Database

_metadata = MetaData()
_cursor = Table(
    "bridge_cursor",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
)


class Cursor:
    """One position, which never goes back: several bridges may share it. Blocking: call it in a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.writer.begin() as connection:
            _metadata.create_all(connection)
            if connection.execute(select(_cursor.c.position)).first() is None:
                connection.execute(insert(_cursor).values(id=1, position=0))

    def read(self) -> int:
        """Return the position up to which events were handled, 0 at first."""
        with self._database.reader.begin() as connection:
            return int(connection.execute(select(_cursor.c.position)).scalar_one())

    def write(self, position: int) -> None:
        """Remember that events up to a position were handled."""
        with self._database.writer.begin() as connection:
            connection.execute(update(_cursor).where(_cursor.c.position < position).values(position=position))
