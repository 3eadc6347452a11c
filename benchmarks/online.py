"""Online features against their goals: reads beside Feast's feature server, and how soon an accepted row is online.

`python -m benchmarks.online [--quick]`. Real landings of 2013 are sent to ingest, and features keeps them by tail
number and by carrier, on SQLite. Ten features by tail number are then read by 8 clients in a closed loop, for one
entity and for 100 in a request, from features through gRPC and from `feast serve` over HTTP, which holds the same
values of the same entities in its SQLite store. Each server has one core and the clients, which speak through neither
side's library, the other; rounds take turns, figures are medians. Feast answers values that were computed before,
features computes its own for the cut-off asked; what both answer is compared once. Every entity was asked for at that
cut-off before, and features holds what it computed; beside that it is read at cut-offs of two days, which it mostly has
to compute.

Then the landings that follow arrive in one stream, 50 a batch, 1,000 a second, and each batch is asked for as soon as
it is acknowledged, with its log position: the time is from the acknowledgement to the answer that counts each row.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.environments import peer_python, peer_script
from benchmarks.report import Report
from benchmarks.servers import answers, await_start, on, serving

_CLIENTS = 8
_RATE = 1_000
_GOALS = {1: 4.0, 100: 10.0}
_START_SECONDS = 60.0
# Feast refuses thousands of entities in a request.
_PART = 500


@dataclass(frozen=True)
class Size:
    """How much is measured: rows that are there, rounds of so many seconds, and seconds of the stream."""

    rows: int
    rounds: int
    seconds: float
    stream_seconds: int


FULL = Size(rows=200_000, rounds=5, seconds=8.0, stream_seconds=120)
QUICK = Size(rows=60_000, rounds=2, seconds=4.0, stream_seconds=30)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    size = QUICK if "--quick" in sys.argv[1:] else FULL
    report = Report()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        artifacts = {"LINEAL_ARTIFACTS_URL": str(folder / "artifacts")}
        with serving("services.lineage", folder / "lineage") as lineage:
            profile = folder / "profile.yaml"
            profile.write_text(f"lineage: {lineage.address}\n", encoding="utf-8")
            settings = artifacts | {"LINEAL_PROFILE": str(profile)}
            with serving("services.ingest", folder / "ingest", **settings) as ingest:
                with (
                    on(cores[:1]),
                    serving("services.features", folder / "features", **settings) as features,
                ):
                    filled = _load("fill", ingest.address, features.address, size.rows)
                    with _feast(folder / "feast", filled) as feast:
                        report.at_most("values that Feast answers otherwise", _different(feast, filled), "", 0)
                        with on(cores[-1:]):
                            _reads(report, folder, features.address, feast, filled, size)
                with serving("services.features", folder / "features", **settings) as features:
                    _stream(report, ingest.address, features.address, size)
    return report.code


def _reads(report: Report, folder: Path, features: str, feast: str, filled: dict[str, Any], size: Size) -> None:
    tails = folder / "feast" / "tails.txt"
    found: dict[tuple[str, int, str], list[float]] = defaultdict(list)

    def read(kind: str, address: str, entities: int) -> dict[str, Any]:
        return _load(kind, address, tails, filled["cutoff"], filled["version"], _CLIENTS, entities, size.seconds)

    for _ in range(size.rounds):
        for entities in _GOALS:
            for kind, address in (("http", feast), ("grpc", features)):
                for name, value in read(kind, address, entities).items():
                    found[kind, entities, name].append(value)
    medians = {key: statistics.median(values) for key, values in found.items()}
    for entities, goal in _GOALS.items():
        asked = f"{entities} {'entity' if entities == 1 else 'entities'}, {_CLIENTS} clients"
        for kind, side in (("http", "Feast"), ("grpc", "Lineal")):
            report.note(f"{asked}, {side}", medians[kind, entities, "rate"], "req/s")
            report.note(f"{asked}, {side}, p50", medians[kind, entities, "p50"], "ms")
            report.note(f"{asked}, {side}, p99", medians[kind, entities, "p99"], "ms")
        rates, slowest = (medians["grpc", entities, n] / medians["http", entities, n] for n in ("rate", "p99"))
        report.at_least(f"{asked}, requests, of Feast's", rates, "", goal)
        report.at_most(f"{asked}, p99, of Feast's", slowest, "", 0.25)
        # After all else: it takes the place of what is held.
        moved = read("moved", features, entities)["rate"]
        report.note(f"{asked}, Lineal, at cut-offs of two days", moved, "req/s")


def _stream(report: Report, ingest: str, features: str, size: Size) -> None:
    found = _load("stream", ingest, features, size.rows, size.stream_seconds * _RATE, _RATE)
    report.at_least("rows accepted while they stream", found["rate"], "rows/s", 0.98 * _RATE)
    report.note("the same, the latest that a batch was sent", found["late"], "ms")
    report.note("accepted to visible online, p50", found["p50"], "ms")
    report.at_most("accepted to visible online, p99", found["p99"], "ms", 1_000)
    report.at_most("rows that an answer at their position did not count", found["invisible"], "", 0)


@contextmanager
def _feast(folder: Path, filled: dict[str, Any]) -> Iterator[str]:
    """Run Feast's feature server with the values that features answered; yield its address."""
    folder.mkdir()
    (folder / "tails.txt").write_text("\n".join(filled["tails"]), encoding="utf-8")
    values = folder / "values.parquet"
    at = datetime.fromtimestamp(filled["cutoff"] / 1e6, UTC)
    pd.DataFrame({"tailnum": filled["tails"], **filled["columns"], "event_time": at}).to_parquet(values)
    python = peer_python("feast")
    variables = os.environ | {"FEAST_USAGE": "False"}
    with (folder / "server.log").open("wb") as log:
        store = [str(python), str(peer_script("feast_store")), str(folder), str(values)]
        subprocess.run(store, check=True, stdout=log, stderr=log, env=variables)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        command = [str(python.parent / "feast"), "-c", str(folder), "serve", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--max-requests", "0", "--no-access-log", "--registry_ttl_sec", "3600"]
        with subprocess.Popen(command, stdout=log, stderr=log, env=variables) as process:
            try:
                await_start(lambda: answers(f"http://127.0.0.1:{port}/health"), process, folder / "server.log")
                yield f"127.0.0.1:{port}"
            finally:
                process.terminate()


def _different(feast: str, filled: dict[str, Any]) -> int:
    """Count the values that Feast answers otherwise than features did."""
    wrong = 0
    for start in range(0, len(filled["tails"]), _PART):
        part = slice(start, start + _PART)
        body = json.dumps({"feature_service": "tail", "entities": {"tailnum": filled["tails"][part]}}).encode()
        request = urllib.request.Request(
            f"http://{feast}/get-online-features", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_START_SECONDS) as response:
            answer = json.load(response)
        theirs = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
        for name, values in filled["columns"].items():
            ours, other = (np.array(each, dtype=np.float64) for each in (values[part], theirs[name]["values"]))
            wrong += int((~np.equal(ours, other) & ~(np.isnan(ours) & np.isnan(other))).sum())
    return wrong


def _load(kind: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.online_load", kind, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
