"""The event log against its goals: appends beside pyeventsourcing and a bare echo, replay, memory, proofs.

`python -m benchmarks.log [--quick]`. All appends are durable: PostgreSQL with the settings it comes with, SQLite with
synchronous=FULL on both sides. pyeventsourcing's recorder runs in process and in its safe mode, which loses nothing;
the log answers through gRPC. Each figure is the median of rounds that take turns, since the machine is never quiet.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.environments import peer_python, peer_script
from benchmarks.report import Report
from benchmarks.servers import Server, peak_memory, postgres, serving, sqlalchemy_url
from lineal.api.lineage.v1.lineage_service_pb2 import SubscribeRequest
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub

_BATCH = 100


@dataclass(frozen=True)
class Size:
    """How much is measured: rounds of so many seconds, a log of so many events."""

    rounds: int
    seconds: float
    events: int
    subscribers: int


FULL = Size(rounds=5, seconds=10.0, events=1_000_000, subscribers=20)
QUICK = Size(rounds=2, seconds=4.0, events=100_000, subscribers=20)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    size = QUICK if "--quick" in sys.argv[1:] else FULL
    report = Report()
    with tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        dsn = stack.enter_context(postgres(folder / "postgres"))
        with serving("services.lineage", folder / "a", LINEAL_LINEAGE_DATABASE_URL=sqlalchemy_url(dsn)) as server:
            found = _appends(folder, server, "postgres", dsn, size)
            report.note("PostgreSQL, pyeventsourcing, 8 writers, 1 event", found["peer 1"], "events/s")
            report.note("PostgreSQL, pyeventsourcing, 8 writers, 100 events", found["peer 100"], "events/s")
            report.note("echo behind the same interceptors, 64 clients", found["echo"], "calls/s")
            report.at_least("PostgreSQL, 64 clients, 1 event", found["own 1"], "events/s", 1.2 * found["peer 1"])
            report.at_least("PostgreSQL, 64 clients, 1 event, of the echo", found["own 1"] / found["echo"], "", 0.35)
            report.note("PostgreSQL, 64 clients, 1 event, p50", found["own 1 p50"], "ms")
            report.note("PostgreSQL, 64 clients, 1 event, p99", found["own 1 p99"], "ms")
            report.at_least("PostgreSQL, 8 clients, 100 events", found["own 100"], "events/s", found["peer 100"])
        with serving("services.lineage", folder / "b") as server:
            found = _appends(folder, server, "sqlite", str(folder / "peer.db"), size)
            report.note("SQLite, pyeventsourcing, 8 writers, 1 event", found["peer 1"], "events/s")
            report.note("SQLite, pyeventsourcing, 8 writers, 100 events", found["peer 100"], "events/s")
            report.at_least("SQLite, 64 clients, 1 event", found["own 1"], "events/s", 0.6 * found["peer 1"])
            report.at_least("SQLite, 8 clients, 100 events", found["own 100"], "events/s", 0.3 * found["peer 100"])
        for kind, url in (
            ("SQLite", None),
            ("PostgreSQL", sqlalchemy_url(stack.enter_context(postgres(folder / "p2")))),
        ):
            settings = {"LINEAL_LINEAGE_DATABASE_URL": url} if url else {}
            with serving("services.lineage", folder / f"long-{kind}", **settings) as server:
                _long_log(report, server, kind, size)
    return report.code


def _appends(folder: Path, server: Server, kind: str, target: str, size: Size) -> dict[str, float]:
    python, script = peer_python("eventsourcing"), peer_script("eventsourcing_recorder")
    found: dict[str, list[float]] = defaultdict(list)
    with serving("benchmarks.echo", folder / f"echo-{kind}") as echo:
        for _ in range(size.rounds):
            for events in (1, _BATCH):
                command = [str(python), str(script), kind, target, "8", str(events), str(size.seconds)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[f"peer {events}"].append(float(done.stdout))
            found["echo"].append(_load("append", echo, 64, 1, size.seconds)["rate"])
            single = _load("append", server, 64, 1, size.seconds)
            found["own 1"].append(single["rate"])
            found["own 1 p50"].append(single["p50"])
            found["own 1 p99"].append(single["p99"])
            found[f"own {_BATCH}"].append(_load("append", server, 8, _BATCH, size.seconds)["rate"])
    return {name: statistics.median(values) for name, values in found.items()}


def _long_log(report: Report, server: Server, kind: str, size: Size) -> None:
    count = f"{size.events:,} events"
    with peak_memory(server) as peak, _stalled(server):
        reading = subprocess.Popen(
            _command("read", server, size.subscribers - 1, size.events), stdout=subprocess.PIPE, text=True
        )
        filled = _load("fill", server, 8, _BATCH, size.events)
        out, _ = reading.communicate()
        if reading.returncode:
            raise RuntimeError("subscribers failed")
    read = json.loads(out)["rate"]
    report.note(f"{kind}, {count} appended while {size.subscribers} read", filled["rate"], "events/s")
    report.note(f"{kind}, {count} read by {size.subscribers - 1}, all together", read, "events/s")
    report.at_most(f"{kind}, memory meanwhile, one more subscriber stalled", peak[0], "MiB", 300)
    replayed = statistics.median(_load("read", server, 1, size.events)["rate"] for _ in range(size.rounds))
    report.at_least(f"{kind}, replay of {count} through Subscribe", replayed, "events/s", 50_000)
    proofs = [_load("prove", server, 1000) for _ in range(size.rounds)]
    middle = {name: statistics.median(run[name] for run in proofs) for name in proofs[0]}
    report.note(f"{kind}, a call that reads nothing meanwhile, p50", middle["bare p50"], "ms")
    report.note(f"{kind}, a call that reads nothing meanwhile, p99", middle["bare p99"], "ms")
    report.note(f"{kind}, inclusion proof among {count}, p50", middle["p50"], "ms")
    report.at_most(f"{kind}, inclusion proof among {count}, p99", middle["p99"], "ms", 5)


@contextmanager
def _stalled(server: Server) -> Iterator[None]:
    """Subscribe within the block and never read."""
    with grpc.insecure_channel(server.address) as channel:
        stream: Any = LineageServiceStub(channel).Subscribe(SubscribeRequest())
        yield
        stream.cancel()


def _command(kind: str, server: Server, *numbers: float) -> list[str]:
    return [sys.executable, "-m", "benchmarks.load", kind, server.address, *map(str, numbers)]


def _load(kind: str, server: Server, *numbers: float) -> dict[str, float]:
    done = subprocess.run(_command(kind, server, *numbers), check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
