"""Connections to PostgreSQL: one that the server has closed is replaced before it is used."""

import pytest
from sqlalchemy import Engine, text

from chassis import databases
from chassis.databases import open_database


def _session(engine: Engine) -> int:
    with engine.begin() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.mark.parametrize("trusted", [30.0, 0.0])
@pytest.mark.parametrize("snapshots", [True, False])
def test_a_closed_connection_is_replaced(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, snapshots: bool, trusted: float
) -> None:
    monkeypatch.setattr(databases, "_TRUSTED_SECONDS", trusted)
    database = open_database(postgres_url, snapshots=snapshots)
    try:
        reading, writing = _session(database.reader), _session(database.writer)
        assert (_session(database.reader), _session(database.writer)) == (reading, writing)
        with database.writer.begin() as connection:
            # With a second argument it returns when the session has ended.
            assert connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": reading}).scalar_one()
        replaced = _session(database.reader)
        assert replaced != reading
        with database.reader.begin() as connection:
            assert connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": writing}).scalar_one()
        assert _session(database.writer) != writing
        assert _session(database.reader) == replaced
    finally:
        database.close()
