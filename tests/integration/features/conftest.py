import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.features.world import World
from tests.integration.running import running


@asynccontextmanager
async def running_world(folder: Path, **settings: str) -> AsyncIterator[World]:
    """Run lineage, ingest and features, with one Dask worker; `settings` are those of features."""
    async with running(folder) as suite:
        await suite.start("lineage", "ingest", "features", dask_workers=1, **settings)
        yield World(suite)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Redis for the whole session and return its URL."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("NO REDIS: redis-server is not installed (apt-get install redis-server), its store is NOT TESTED")
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    command = [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "ready to accept connections" in line.lower():
                break
        yield f"unix://{socket}"
        process.terminate()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """Return the URL of an empty database."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The services with online state in SQLite."""
    async with running_world(tmp_path) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
async def any_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """The services with online state in each of its stores."""
    settings = {}
    if request.param == "redis":
        settings["redis_url"] = request.getfixturevalue("redis_url")
    elif request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_url")
    async with running_world(tmp_path, **settings) as found:
        yield found
