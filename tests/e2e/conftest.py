"""One suite of processes for the session, as `lineal up` starts it; tests reach it through SDK and CLI alone."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lineal.client import Client

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120


@dataclass(frozen=True)
class Running:
    """A suite on a data folder."""

    data: Path

    @property
    def profile(self) -> Path:
        return self.data / "profile.yaml"

    def client(self, deadline_seconds: float = 30.0) -> Client:
        return Client(self.profile, deadline_seconds)

    def lineal(self, *arguments: str, code: int = 0) -> str:
        """Run the command line; return what it wrote to both of its outputs."""
        command = [sys.executable, "-m", "lineal.cli", "--connect", str(self.profile), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=READY_SECONDS, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def pid(self, service: str) -> int:
        """Return the process that the supervisor has started last for a service."""
        found: int = json.loads((self.data / "up.json").read_text())["processes"][service]
        return found


@contextmanager
def up(data: Path) -> Iterator[Running]:
    """Run everything on a data folder, on free ports."""
    environment = {**os.environ, "LINEAL_WORKFLOWS_WATCH_SECONDS": "3600"}
    log = data / "up.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "lineal.local", str(data), str(ROOT), "--free-ports"]
        with subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=environment) as process:
            try:
                running = Running(data)
                while not running.profile.exists():
                    assert process.poll() is None, log.read_text()
                running.lineal("status", "--wait", "--timeout", str(READY_SECONDS))
                yield running
            finally:
                process.terminate()


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The suite that the tests share."""
    with up(tmp_path_factory.mktemp("suite")) as running:
        yield running


@pytest.fixture(scope="session")
def notebook(suite: Running) -> dict[str, Any]:
    """Run the notebook on the suite; return its variables. Afterwards the endpoint `unpaid` has a champion."""
    before = os.environ.get("LINEAL_PROFILE")
    os.environ["LINEAL_PROFILE"] = str(suite.profile)
    try:
        return runpy.run_module("examples.shop.notebook")
    finally:
        del os.environ["LINEAL_PROFILE"]
        if before is not None:
            os.environ["LINEAL_PROFILE"] = before
