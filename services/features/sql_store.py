"""Online state in the tables of the projection."""

from collections.abc import Sequence

from sqlalchemy import Connection

from services.features.online import chunk_bytes, stored_chunks


class SqlStore:
    """Reads within one transaction, so that signatures and states belong together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers: dict[tuple[str, str], list[int]] = {}

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return first and last chunk and the rows of the last: chunks only grow, and go in order."""
        found = stored_chunks(self._connection, views, entities)
        self._numbers |= {key: [chunk.number for chunk in chunks] for key, chunks in found.items()}
        return {
            key: (chunks[0].number, chunks[-1].number, chunks[-1].rows, len(chunks)) for key, chunks in found.items()
        }

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        """Return the packed rows of entities."""
        found = chunk_bytes(self._connection, [(*key, number) for key in wanted for number in self._numbers[key]])
        return {
            key: (
                b"".join(found[*key, number][0] for number in self._numbers[key]),
                b"".join(found[*key, number][1] for number in self._numbers[key]),
            )
            for key in wanted
        }
