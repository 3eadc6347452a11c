"""The memory of a worker of serving with ten models loaded, and what it costs to hold fewer than are asked.

`python -m benchmarks.serving_memory [--quick]`. Models of flights, half of them with texts, have an endpoint each and
answer in turn: one row a request, traced, recorded and routed. Then a worker that may hold three of them, so that each
request finds its model gone and waits until it is loaded again.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.report import Report
from benchmarks.servers import Server, peak_memory
from benchmarks.serving_flights import names, rows
from benchmarks.serving_load import infer_request
from benchmarks.serving_suite import suite
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub

_MODELS = 10
_FEW = 3
_MOST_MIB = 350
_SECONDS = 30.0


@dataclass(frozen=True)
class Size:
    """How much is measured: rows to fit on, requests to each model, and turns in which each is loaded again."""

    rows: int
    requests: int
    turns: int


FULL = Size(rows=100_000, requests=2_000, turns=10)
QUICK = Size(rows=20_000, requests=200, turns=3)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    size = QUICK if "--quick" in sys.argv[1:] else FULL
    report = Report()
    with tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name:
        folder, models = Path(name), Path(name) / "models"
        command = [sys.executable, "-m", "benchmarks.serving_flights", str(models), str(size.rows), str(_MODELS)]
        subprocess.run(command, check=True)
        _measure_all(report, folder / "all", models, size)
        _measure_few(report, folder / "few", models, size)
    return report.code


def _measure_all(report: Report, folder: Path, models: Path, size: Size) -> None:
    with suite(folder, models, *_cores()) as server, peak_memory(server) as peak:
        report.note(f"{_MODELS} models loaded, before the first request", server.resident_mib, "MiB")
        _ask(server, models, size.requests)
        report.at_most(f"{_MODELS} models loaded, a worker", server.resident_mib, "MiB", _MOST_MIB)
        report.note(f"{_MODELS} models loaded, a worker, at most", peak[0], "MiB")


def _measure_few(report: Report, folder: Path, models: Path, size: Size) -> None:
    with suite(folder, models, *_cores(), LINEAL_SERVING_LOADED_BUNDLES=str(_FEW)) as server:
        took = [seconds for _ in range(size.turns) for seconds in _ask(server, models, 1)]
        report.note(f"{_FEW} of {_MODELS} models loaded, a worker", server.resident_mib, "MiB")
        report.note("a request whose model is loaded again, p50", statistics.median(took) * 1000, "ms")
        report.note("a request whose model is loaded again, slowest", max(took) * 1000, "ms")


def _cores() -> tuple[list[int], list[int]]:
    cores = sorted(os.sched_getaffinity(0))
    return cores[:1], cores[-1:]


def _ask(server: Server, models: Path, count: int) -> list[float]:
    """Ask each model so many times, one after the other; return how long the answers took, in seconds."""
    took = []
    with grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for name in names(_MODELS):
            asked = rows(models, name)
            for number in range(count):
                row = asked.iloc[[number % len(asked)]]
                request = infer_request(name, row, str(number))
                start = time.perf_counter()
                stub.ModelInfer(request, timeout=_SECONDS)
                took.append(time.perf_counter() - start)
    return took


if __name__ == "__main__":
    sys.exit(main())
