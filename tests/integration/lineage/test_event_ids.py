"""The index of event ids against a dict: with ids of any kind, restarts and transactions that are taken back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from services.lineage import event_ids
from services.lineage.event_ids import EventIds, position_of
from services.lineage.tables import Stored, metadata

_IDS = st.one_of(
    st.binary(min_size=16, max_size=16),
    # As those that begin with the time, which come in order and share their first bytes.
    st.integers(0, 2**20).map(lambda n: b"\x01\x93" + n.to_bytes(14, "big")),
)
_STEPS = st.lists(
    st.one_of(st.lists(_IDS, min_size=1, max_size=30, unique=True), st.sampled_from(["restart", "taken back"])),
    max_size=30,
)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    engine = create_engine(f"sqlite:///{path}")
    metadata.create_all(engine)
    engine.dispose()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def commit(
    connection: sqlite3.Connection, ids: EventIds, keys: list[bytes], after: int, *, undone: bool = False
) -> None:
    records = [Stored(after + n, "s", after + n, key, "t", 0, b"r", b"h") for n, key in enumerate(keys, start=1)]
    connection.execute("BEGIN IMMEDIATE")
    written = ids.write()
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", records)
    if undone:
        connection.execute("ROLLBACK")
        return
    connection.execute("COMMIT")
    ids.committed(written, records)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_each_id_is_found_and_no_other(
    steps: list[list[bytes] | str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_ids, "_MOST_WAITING", 40)
    monkeypatch.setattr(event_ids, "_MOST_WRITTEN", 33)
    monkeypatch.setattr(event_ids, "_ROWS_AT_ONCE", 10)
    known: dict[bytes, int] = {}
    refused: set[bytes] = set()
    path = tmp_path_factory.mktemp("log") / "log.db"
    with opened(path) as connection:
        ids = EventIds(connection)
        for number, step in enumerate(steps):
            if step == "restart":
                ids = EventIds(connection)
            elif step == "taken back":
                key = b"\x00refused" + number.to_bytes(8, "big")
                refused.add(key)
                commit(connection, ids, [key], len(known), undone=True)
            else:
                keys = [key for key in step if isinstance(key, bytes)]
                fresh = [key for key in keys if key not in known]
                assert ids.positions(keys) == {key: known[key] for key in keys if key in known}
                if fresh:
                    commit(connection, ids, fresh, len(known))
                    known |= {key: len(known) + n for n, key in enumerate(fresh, start=1)}
        asked = [*known, *refused]
        assert ids.positions(asked) == known
        assert EventIds(connection).positions(asked) == known
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as reader:
        for key in asked:
            found: int | None = reader.scalar(position_of("key"), {"key": key})
            assert found == known.get(key)
    engine.dispose()


def test_a_start_reads_only_ids_that_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_ids, "_MOST_WAITING", 500)
    with opened(tmp_path / "log.db") as connection:
        ids = EventIds(connection)
        for n in range(200):
            commit(connection, ids, [(n * 100 + k).to_bytes(2, "little") * 8 for k in range(100)], n * 100)
        (through,) = connection.execute("SELECT position FROM event_ids_through").fetchone()
        assert 20_000 - through <= 4 * 600
