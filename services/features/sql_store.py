"""Online state in the tables of the projection."""

from collections.abc import Sequence

from sqlalchemy import Connection

from services.features import online


class SqlStore:
    """Reads within one transaction, so that signatures and states belong together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return what changes with an entity's state, by view version and entity."""
        return online.signatures(self._connection, views, entities)

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        """Return the packed rows of entities by view version and entity."""
        return online.states(self._connection, wanted)
