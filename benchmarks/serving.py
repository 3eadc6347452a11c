"""Predictions against their goals, beside MLServer, MLflow, BentoML and a bare echo.

`python -m benchmarks.serving [--quick]`. One CatBoost model of flights, 300 trees of depth 6, is served by all of them,
once with four texts among its ten columns and once with numbers alone. Each server has one core; the clients, which
speak through no side's library and cost next to nothing, have the other, with the services that serving needs. Eight
clients ask in a closed loop; rounds take turns, figures are medians. Lineal traces, records and routes every request,
a record per row; the others do none of it. What Lineal and MLServer say of some thousand rows is compared first.
MLServer runs without and with a worker process; the better counts. A peer that cannot be installed or started here is
named, and so is each goal that cannot be judged without it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks import serving_peers as peers
from benchmarks.report import Report
from benchmarks.servers import free_port, on
from benchmarks.serving_flights import KINDS, rows
from benchmarks.serving_load import infer_request
from benchmarks.serving_suite import suite
from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub

_CLIENTS = 8
_BATCH = 100
_START_SECONDS = 30.0
# More than the rows on which serving compares the compiled applier with CatBoost before it believes it.
_CLASSIFIED_ROWS = 3_000
# What is asked: the model, and the rows of a request.
_CASES = (("texts", 1), ("numbers", 1), ("texts", _BATCH))
_TITLES = {"texts": "texts", "numbers": "numbers alone"}


@dataclass(frozen=True)
class Size:
    """How much is measured: rows to fit on, rounds of so many seconds."""

    rows: int
    rounds: int
    seconds: float


FULL = Size(rows=100_000, rounds=5, seconds=8.0)
QUICK = Size(rows=20_000, rounds=2, seconds=3.0)

Median = dict[tuple[str, str, int, str], float]


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    size = QUICK if "--quick" in sys.argv[1:] else FULL
    report = Report()
    cores = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name,
        ExitStack() as stack,
    ):
        folder, models = Path(name), Path(name) / "models"
        subprocess.run([sys.executable, "-m", "benchmarks.serving_flights", str(models), str(size.rows)], check=True)
        servers = {"Lineal": stack.enter_context(suite(folder / "suite", models, cores[:1], cores[-1:])).address}
        with on(cores[:1]):
            servers |= _others(stack, folder, models)
        ours = _classified(servers["Lineal"], models)
        if "MLServer" in servers:
            theirs = _classified(servers["MLServer"], models)
            different = sum(a != b for a, b in zip(ours, theirs, strict=True))
            report.at_most("rows that MLServer classifies otherwise", different, "", 0)
        found: dict[tuple[str, str, int, str], list[float]] = defaultdict(list)
        with on(cores[-1:]):
            for _ in range(size.rounds):
                _round(found, servers, models, size.seconds)
        _judge(report, {key: statistics.median(values) for key, values in found.items()})
    return report.code


def _others(stack: ExitStack, folder: Path, models: Path) -> dict[str, str]:
    """Start what serving is compared with; return the addresses of those that answer."""
    texts = models / "texts" / "model.cbm"
    begun: dict[str, AbstractContextManager[str]] = {
        "echo": _echo(),
        "MLServer": peers.mlserver(folder / "mlserver", models, KINDS, 0),
        "MLServer, 1 worker": peers.mlserver(folder / "mlserver-1", models, KINDS, 1),
        "MLflow": peers.mlflow(folder / "mlflow", texts),
        "BentoML": peers.bentoml(folder / "bentoml", texts),
    }
    found = {}
    for name, server in begun.items():
        try:
            found[name] = stack.enter_context(server)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            print(f"{name} is not here, nothing is compared with it: {error}", flush=True)
    return found


def _round(
    found: dict[tuple[str, str, int, str], list[float]], servers: dict[str, str], models: Path, s: float
) -> None:
    for kind, count in _CASES:
        for name, address in servers.items():
            speaks = {"MLflow": "mlflow", "BentoML": "bentoml"}.get(name, "oip")
            if kind != "texts" and speaks != "oip":
                continue
            arguments = [speaks, address, str(models), kind, str(_CLIENTS), str(count), str(s)]
            command = [sys.executable, "-m", "benchmarks.serving_load", *arguments]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            for figure, value in json.loads(done.stdout).items():
                found[name, kind, count, figure].append(value)


def _judge(report: Report, median: Median) -> None:
    for name, kind, count, figure in median:
        if figure != "rate":
            continue
        title = f"{_title(kind, count)}, {name}"
        report.note(title, median[name, kind, count, "rate"] * count, "rows/s")
        for percent in ("p50", "p99"):
            report.note(f"{title}, {percent}", median[name, kind, count, percent], "ms")
    single, batch = _title("texts", 1), _title("texts", _BATCH)
    for peer, goal in (("MLServer", 8.0), ("MLflow", 8.0), ("BentoML", 10.0), ("echo", 0.5)):
        _compare(report, f"{single}, requests, of {peer}", _times(median, "texts", 1, peer), goal)
    _compare(report, f"{_title('numbers', 1)}, requests, of MLServer", _times(median, "numbers", 1, "MLServer"), 2.5)
    _compare(report, f"{batch}, rows, of MLServer", _times(median, "texts", _BATCH, "MLServer"), 5.0)
    slowest = [median[key] for key in median if key[0].startswith("MLServer") and key[1:] == ("texts", 1, "p99")]
    if slowest:
        report.at_most(f"{single}, p99, of MLServer's", median["Lineal", "texts", 1, "p99"] / min(slowest), "", 0.25)


def _times(median: Median, kind: str, count: int, peer: str) -> float | None:
    rates = [value for key, value in median.items() if key[0].startswith(peer) and key[1:] == (kind, count, "rate")]
    return median["Lineal", kind, count, "rate"] / max(rates) if rates else None


def _compare(report: Report, name: str, times: float | None, goal: float) -> None:
    if times is None:
        print(f"{name}: not measured", flush=True)
    else:
        report.at_least(name, times, "", goal)


def _title(kind: str, count: int) -> str:
    return f"{_TITLES[kind]}, {count} row{'s' if count > 1 else ''}, {_CLIENTS} clients"


def _classified(address: str, models: Path) -> list[int]:
    """Return the classes that a server finds for rows of each model."""
    classes: list[int] = []
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for kind in KINDS:
            request = infer_request(kind, rows(models, kind).iloc[:_CLASSIFIED_ROWS], "unit")
            response: oip.ModelInferResponse = stub.ModelInfer(request, timeout=_START_SECONDS, wait_for_ready=True)
            (tensor,) = (output for output in response.outputs if output.name == "predict")
            classes += tensor.contents.int64_contents
    return classes


@contextmanager
def _echo() -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "benchmarks.serving_echo", address.rpartition(":")[2]]
    with subprocess.Popen(command) as process:
        try:
            with grpc.insecure_channel(address) as channel:
                ready = GRPCInferenceServiceStub(channel).ServerReady
                ready(oip.ServerReadyRequest(), timeout=_START_SECONDS, wait_for_ready=True)
            yield address
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
