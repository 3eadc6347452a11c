"""Run processes until told to stop: restart what dies, stop in reverse order."""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from lineal.local.plan import Process, environment_of

_logger = logging.getLogger(__name__)
_STOP_SECONDS = 15.0
_PAUSE_SECONDS = (0.2, 5.0)
# A process that has lived so long starts again without a pause.
_STEADY_SECONDS = 30.0


class _Child:
    def __init__(self, process: Process, log: Path, root: Path) -> None:
        self.process = process
        self._log = log
        self._root = root
        self.running: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=process.name, daemon=True)

    def start(self) -> None:
        self._spawn()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self.running is not None and self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)

    def join(self) -> None:
        assert self.running is not None
        try:
            self.running.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _logger.warning("%s does not stop, it is killed", self.process.name)
            os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait()
        self._thread.join()

    def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self.running = _spawn(self.process, log, self._root)

    def _keep(self) -> None:
        pause, longest = _PAUSE_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            assert self.running is not None
            code = self.running.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _STEADY_SECONDS:
                pause = _PAUSE_SECONDS[0]
            _logger.warning("%s ended with code %d, it starts again in %.1f s", self.process.name, code, pause)
            # What it had started must not hold its port or its files.
            _kill_group(self.running.pid)
            if self._stopping.wait(pause):
                return
            pause = min(2 * pause, longest)
            self.restarts += 1
            self._spawn()


class Supervisor:
    """Keeps a list of processes alive, each with a log file `<logs>/<name>.log`."""

    def __init__(self, processes: Sequence[Process], logs: Path, root: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._children = [_Child(process, logs / f"{process.name}.log", root) for process in processes]

    def start(self) -> None:
        """Start everything; what needs another waits for it by itself."""
        for child in self._children:
            child.start()

    def stop(self) -> None:
        """Stop in reverse order: the log and Temporal last, so that the others can finish what they do."""
        last = [child for child in self._children if child.process.name in ("lineage", "temporal")]
        first = [child for child in self._children if child not in last]
        for group in (first, list(reversed(last))):
            for child in reversed(group):
                child.stop()
            for child in group:
                child.join()

    def pids(self) -> dict[str, int]:
        """Return the process ids by name."""
        return {child.process.name: child.running.pid for child in self._children if child.running is not None}


def _spawn(process: Process, log: IO[bytes], root: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        list(process.command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=root,
        env=environment_of(process),
        # A group of its own, so that Ctrl-C reaches only the supervisor, which stops everything in order.
        start_new_session=True,
    )


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
