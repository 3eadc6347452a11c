"""`python -m lineal.local <data folder>`: run everything until SIGTERM or SIGINT."""

import fcntl
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from lineal.errors import LinealError
from lineal.local.plan import CannotStart, check_ports, choose_ports, processes
from lineal.local.supervisor import Supervisor

PID_FILE = "up.json"


def run(data: Path, root: Path, *, free_ports: bool) -> None:
    """Start everything on a data folder, write where it is to `profile.yaml` and `up.json`, and wait for a signal.

    Raises CannotStart.
    """
    data.mkdir(parents=True, exist_ok=True)
    with (data / ".up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotStart(f"Lineal runs on {data} already; `lineal down --data {data}` stops it") from None
        profile = choose_ports(data, free=free_ports)
        check_ports(profile)
        profile.save(data / "profile.yaml")
        supervisor = Supervisor(processes(data, profile, root), data / "logs", root)
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        supervisor.start()
        pids = supervisor.pids()
        try:
            while not stopped.is_set():
                _write(data / PID_FILE, {"supervisor": os.getpid(), "processes": pids})
                # Restarts change process ids; whoever reads the file wants the newest.
                stopped.wait(0.5)
                pids = supervisor.pids()
        finally:
            supervisor.stop()
            (data / PID_FILE).unlink(missing_ok=True)


def _write(path: Path, value: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def main() -> int:
    """Run with the arguments of the command line; return the exit code."""
    data, root, *options = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run(Path(data).resolve(), Path(root).resolve(), free_ports="--free-ports" in options)
    except LinealError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
