"""The index of event ids on SQLite, which is written after the events.

Ids are random. An index of them that is kept up to date dirties a page for each event, which in a log of a million
costs more than everything else about an append. So the newest ids wait in memory, on a shelf for each first byte, and
a shelf is written at once: its ids lie side by side in the index and share pages. A start reads from the events which
ids wait, so nothing depends on memory.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

from sqlalchemy import Select, bindparam, column, select, table, union_all

from services.lineage.tables import Stored, events

_CREATE = (
    "CREATE TABLE IF NOT EXISTS event_ids (event_id BLOB PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID",
    # One row: of the events up to this position each has its id in the index, of later ones some have.
    "CREATE TABLE IF NOT EXISTS event_ids_through (position INTEGER NOT NULL)",
    "INSERT INTO event_ids_through SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM event_ids_through)",
)
_WAITING = "SELECT event_id, position FROM events WHERE position > (SELECT position FROM event_ids_through)"
# Part of a shelf may have been written before a restart.
_INSERT = "INSERT OR IGNORE INTO event_ids (event_id, position) VALUES "
_THROUGH = "UPDATE event_ids_through SET position = ?"
# So many ids wait; 8 MiB. A start reads at most about four times as many, since shelves grow while others are written.
_MOST_WAITING = 32_768
# Ids that one commit writes at most, and a statement: each gives up the interpreter's lock and has to win it back.
_MOST_WRITTEN = 2048
_ROWS_AT_ONCE = 256
_ASKED_AT_ONCE = 128
_EXISTING = f"SELECT event_id, position FROM event_ids WHERE event_id IN ({', '.join('?' * _ASKED_AT_ONCE)})"
_SHELVES = 256


def position_of(key: str) -> Select[Any]:
    """Return the query for the position of the event whose id is the parameter of this name."""
    index = table("event_ids", column("event_id"), column("position"))
    through = select(table("event_ids_through", column("position")).c.position).scalar_subquery()
    written = select(index.c.position).where(index.c.event_id == bindparam(key))
    waiting = select(events.c.position).where(events.c.position > through, events.c.event_id == bindparam(key))
    return select(union_all(written, waiting).subquery().c.position).limit(1)


class EventIds:
    """Where each event id lies, for the connection that writes; `write` belongs into its transactions. Blocking."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        for statement in _CREATE:
            connection.execute(statement)
        self._waiting: dict[bytes, int] = {}
        self._shelves: list[list[bytes]] = [[] for _ in range(_SHELVES)]
        for key, position in connection.execute(_WAITING):
            self._wait(key, position)
        self._newest = max(self._waiting.values(), default=0)
        # The last shelf that was taken, and what is left of it, in order, without ids that came since.
        self._shelf = -1
        self._open: list[bytes] = []
        # Events up to here have their ids in the index once the last shelf is written.
        self._through = self._newest

    def positions(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return the positions of those ids that are there."""
        found = {key: self._waiting[key] for key in keys if key in self._waiting}
        for start in range(0, len(keys), _ASKED_AT_ONCE):
            asked = list(keys[start : start + _ASKED_AT_ONCE])
            # The last one fills up, so that there is but one statement and it stays prepared.
            asked += asked[-1:] * (_ASKED_AT_ONCE - len(asked))
            found.update(self._connection.execute(_EXISTING, asked))
        return found

    def write(self) -> int:
        """Write as many ids into the index as wait too many; return how many, for `committed`."""
        many = min(len(self._waiting) - _MOST_WAITING, _MOST_WRITTEN)
        while len(self._open) < many:
            self._open_shelf()
        for start in range(0, many, _ROWS_AT_ONCE):
            keys = self._open[start : min(start + _ROWS_AT_ONCE, many)]
            rows = ((key, self._waiting[key]) for key in keys)
            self._connection.execute(_INSERT + ", ".join(["(?, ?)"] * len(keys)), list(chain.from_iterable(rows)))
        return max(many, 0)

    def committed(self, written: int, records: Sequence[Stored]) -> None:
        """Take note of what is durable now: so many ids written, and new events."""
        for key in islice(self._open, written):
            del self._waiting[key]
        del self._open[:written]
        for new in records:
            self._wait(new.event_id, new.position)
        self._newest = records[-1].position

    def _wait(self, key: bytes, position: int) -> None:
        self._waiting[key] = position
        self._shelves[key[0]].append(key)

    def _open_shelf(self) -> None:
        """Take the next shelf; all that was taken before is written by the transaction that this is in."""
        self._shelf += 1
        if self._shelf == _SHELVES:
            self._connection.execute(_THROUGH, (self._through,))
            self._shelf, self._through = 0, self._newest
        self._open += sorted(self._shelves[self._shelf])
        self._shelves[self._shelf] = []
