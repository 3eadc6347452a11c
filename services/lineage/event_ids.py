"""The index of event ids on SQLite, which is written after the events.

Ids are random. An index of them that is kept up to date dirties a page for each event, which in a log of a million
costs more than everything else about an append. So the newest ids wait in memory, on a shelf for each first byte, and
a shelf is written at once: its ids lie side by side in the index and share pages. A start reads from the events which
ids wait, so nothing depends on memory.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
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
# So many ids wait; with those that are in the index already and not forgotten yet about 20 MiB. A start reads at most
# about four times as many, since shelves grow while others are written.
_MOST_WAITING = 32_768
# Ids that one commit writes at most, and a statement: each gives up the interpreter's lock and has to win it back.
_MOST_WRITTEN = 2048
_ROWS_AT_ONCE = 512
# Statements ask for a multiple of so many ids, the last one again and again: so there are few, and they stay prepared.
_ASKED, _ASKED_AT_ONCE = 128, 512
_EXISTING = "SELECT event_id, position FROM event_ids WHERE event_id IN "
_SHELVES = 256
# An id may have come just after its shelf was taken, so it is written in the next round.
_ROUNDS = 2


def position_of(key: str) -> Select[Any]:
    """Return the query for the position of the event whose id is the parameter of this name."""
    index = table("event_ids", column("event_id"), column("position"))
    through = select(table("event_ids_through", column("position")).c.position).scalar_subquery()
    written = select(index.c.position).where(index.c.event_id == bindparam(key))
    waiting = select(events.c.position).where(events.c.position > through, events.c.event_id == bindparam(key))
    return select(union_all(written, waiting).subquery().c.position).limit(1)


class EventIds:
    """Where each event id lies, for the connection that writes; `write` belongs into its transactions. Blocking.

    Shelves are written round after round. What came during a round is forgotten as a whole once all that was on the
    shelves at its end is in the index, which takes one more round.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        for statement in _CREATE:
            connection.execute(statement)
        waiting = dict(connection.execute(_WAITING))
        self._newest = max(waiting.values(), default=0)
        self._shelves: list[list[tuple[bytes, int]]] = [[] for _ in range(_SHELVES)]
        self._shelve(waiting.items())
        self._waiting = len(waiting)
        # The last shelf that was taken, and what is left of it, in order, without ids that came since.
        self._shelf = -1
        self._open: list[tuple[bytes, int]] = []
        # What came in each round, the newest last, and the newest event at its beginning.
        self._rounds: list[dict[bytes, int]] = [waiting]
        self._begun = [self._newest]
        # How much of what is open belongs to the round that has ended.
        self._left = 0

    def positions(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return the positions of those ids that are there."""
        found = {key: ids[key] for ids in self._rounds for key in ids.keys() & keys}
        for start in range(0, len(keys), _ASKED_AT_ONCE):
            asked = list(keys[start : start + _ASKED_AT_ONCE])
            asked += asked[-1:] * (-len(asked) % _ASKED)
            found.update(self._connection.execute(f"{_EXISTING}({', '.join('?' * len(asked))})", asked))
        return found

    def write(self) -> int:
        """Write as many ids into the index as wait too many; return how many, for `committed`."""
        many = max(min(self._waiting - _MOST_WAITING, _MOST_WRITTEN), 0)
        while len(self._open) < many:
            self._open_shelf()
        for start in range(0, many, _ROWS_AT_ONCE):
            rows = self._open[start : min(start + _ROWS_AT_ONCE, many)]
            self._connection.execute(_INSERT + ", ".join(["(?, ?)"] * len(rows)), list(chain.from_iterable(rows)))
        if len(self._rounds) > _ROUNDS and many >= self._left:
            self._connection.execute(_THROUGH, (self._begun[-_ROUNDS],))
        return many

    def committed(self, written: int, records: Sequence[Stored]) -> None:
        """Take note of what is durable now: so many ids written, and new events."""
        del self._open[:written]
        self._left -= written
        if self._left <= 0:
            del self._rounds[:-_ROUNDS], self._begun[:-_ROUNDS]
        new = [(record.event_id, record.position) for record in records]
        self._rounds[-1].update(new)
        self._shelve(new)
        self._waiting += len(new) - written
        self._newest = records[-1].position

    def _shelve(self, ids: Iterable[tuple[bytes, int]]) -> None:
        for one in ids:
            self._shelves[one[0][0]].append(one)

    def _open_shelf(self) -> None:
        self._shelf += 1
        if self._shelf == _SHELVES:
            self._shelf, self._left = 0, len(self._open)
            self._rounds.append({})
            self._begun.append(self._newest)
        self._open += sorted(self._shelves[self._shelf])
        self._shelves[self._shelf] = []
