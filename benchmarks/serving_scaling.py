"""What a second worker of serving costs, and what features cost that are looked up.

`python -m benchmarks.serving_scaling [--quick]`. Three workers run: one alone on its port, two that share another.
Rounds take turns; each asks one port through sixteen connections and reads the CPU time of its workers, in all that
they do: answer, trace, record, renew their leases. Then the worker that is alone answers for flights, of which ten
features are sent with the request, or looked up by the tail number that is sent instead; the scores must be the same.

The alone worker and one of the two have a core; the other of the two, the clients and all other services have the rest.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import serving_landings as landings
from benchmarks.report import Report
from benchmarks.servers import Server, free_port, on, serving
from benchmarks.serving_scaling_load import measured
from benchmarks.serving_suite import needed, release
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.client import connect

_CONNECTIONS = 16
_APPLIED_SECONDS = 60.0
_PAUSE_SECONDS = 0.1
# Below that one of two workers had next to nothing to do, and two are no more than one.
_LEAST_SHARE = 0.1
_KIND = "texts"


@dataclass(frozen=True)
class Size:
    """How much is measured: rows to fit on, landings to look up, rounds of so many seconds."""

    rows: int
    landings: int
    rounds: int
    seconds: float


FULL = Size(rows=100_000, landings=100_000, rounds=7, seconds=8.0)
QUICK = Size(rows=20_000, landings=20_000, rounds=3, seconds=4.0)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    size = QUICK if "--quick" in sys.argv[1:] else FULL
    report = Report()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name:
        folder, models = Path(name), Path(name) / "models"
        subprocess.run([sys.executable, "-m", "benchmarks.serving_flights", str(models), str(size.rows)], check=True)
        with needed(folder / "suite", cores[-1:], "ingest") as settings:
            profile = Path(settings["LINEAL_PROFILE"])
            with _workers(folder, settings, cores) as (alone, two), on(cores[-1:]):
                release(profile, _KIND, models / _KIND / "model.cbm")
                landings.release(profile, models, size.landings)
                _applied(profile, 1 + len(two))
                _scaling(report, models, alone, two, size)
                _looking_up(report, profile, models, alone, size)
    return report.code


@contextmanager
def _workers(folder: Path, settings: dict[str, str], cores: list[int]) -> Iterator[tuple[Server, list[Server]]]:
    shared = str(free_port())

    def worker(number: int, port: str) -> AbstractContextManager[Server]:
        names = {"LINEAL_SERVING_WORKER": str(number), "LINEAL_SERVING_REPLICA_ID": f"worker-{number}"}
        return serving("services.serving", folder / f"worker-{number}", **settings, **names, LINEAL_SERVING_PORT=port)

    with ExitStack() as stack:
        with on(cores[:1]):
            alone, first = (stack.enter_context(worker(n, port)) for n, port in ((1, str(free_port())), (2, shared)))
        with on(cores[-1:]):
            second = stack.enter_context(worker(3, shared))
        yield alone, [first, second]


def _applied(profile: Path, workers: int) -> None:
    """Return once so many workers serve every endpoint; on a port that is shared a probe tells only of one."""
    end = time.monotonic() + _APPLIED_SECONDS
    with connect(profile) as client:
        while True:
            found = client.services.registry.call("ListReplicas", registry_api.ListReplicasRequest()).replicas
            if sum(set(each.generations) >= {_KIND, landings.SENT, landings.KEYS} for each in found) == workers:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"{workers} workers do not serve after {_APPLIED_SECONDS:.0f} s: {found}")
            time.sleep(_PAUSE_SECONDS)


def _scaling(report: Report, models: Path, alone: Server, two: list[Server], size: Size) -> None:
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(size.rounds):
        for name, workers in (("one", [alone]), ("two", two)):
            before = [_cpu(worker) for worker in workers]
            figures = measured(workers[0].address, models, _KIND, _CONNECTIONS, 1, size.seconds)
            used = [_cpu(worker) - earlier for worker, earlier in zip(workers, before, strict=True)]
            found[f"{name} cpu"].append(sum(used) / figures["answers"] * 1e6)
            found[f"{name} rate"].append(figures["rate"])
            found[f"{name} share"].append(min(used) / sum(used))
    median = {name: statistics.median(values) for name, values in found.items()}
    for name, title in (("one", "one worker"), ("two", "two workers")):
        report.note(f"{title}, requests", median[f"{name} rate"], "/s")
        report.note(f"{title}, CPU time of a request", median[f"{name} cpu"], "us")
    report.at_least("the less busy of two, of their CPU time", median["two share"], "", _LEAST_SHARE)
    report.at_most("CPU time of a request, two workers, of one's", median["two cpu"] / median["one cpu"], "", 1.15)


def _looking_up(report: Report, profile: Path, models: Path, alone: Server, size: Size) -> None:
    report.at_most("rows that keys score otherwise", landings.otherwise(profile, models, alone.address), "", 0)
    found: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    loads: Sequence[tuple[str, int]] = [(kind, count) for count in (1, 8) for kind in (landings.SENT, landings.KEYS)]
    for _ in range(size.rounds):
        for kind, clients in loads:
            for figure, value in measured(alone.address, models, kind, 1, clients, size.seconds).items():
                found[kind, clients, figure].append(value)
    median = {key: statistics.median(values) for key, values in found.items()}
    for clients in (1, 8):
        asked = f"{clients} client{'s' * (clients > 1)}"
        for kind, title in ((landings.SENT, "features sent"), (landings.KEYS, "features looked up")):
            report.note(f"{title}, {asked}", median[kind, clients, "rate"], "/s")
            report.note(f"{title}, {asked}, p50", median[kind, clients, "p50"], "ms")
            report.note(f"{title}, {asked}, p99", median[kind, clients, "p99"], "ms")
        times = median[landings.KEYS, clients, "p50"] / median[landings.SENT, clients, "p50"]
        report.at_most(f"looked up, {asked}, p50, of sent", times, "", 2)


def _cpu(worker: Server) -> float:
    """Return the CPU time of a worker so far, in seconds."""
    times = psutil.Process(worker.pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())
