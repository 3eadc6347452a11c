"""What spans cost: predictions of a worker that writes a span for each, beside one that writes none.

`python -m benchmarks.serving_spans [--quick]`. Both answer the model with texts of `benchmarks.serving`, one row a
request, recorded and routed, and have the same core; the clients and the services that serving needs have the other.
One has `OTEL_TRACES_SAMPLER=always_off`. Eight clients ask in a closed loop; rounds take turns, figures are medians.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Report
from benchmarks.servers import on, serving
from benchmarks.serving_scaling_load import measured
from benchmarks.serving_suite import needed, release

_CLIENTS = 8
_KIND = "texts"
_LEAST = 0.8


@dataclass(frozen=True)
class Size:
    """How much is measured: rows to fit on, rounds of so many seconds."""

    rows: int
    rounds: int
    seconds: float


FULL = Size(rows=100_000, rounds=7, seconds=8.0)
QUICK = Size(rows=20_000, rounds=3, seconds=3.0)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    size = QUICK if "--quick" in sys.argv[1:] else FULL
    report = Report()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name:
        folder, models = Path(name), Path(name) / "models"
        subprocess.run([sys.executable, "-m", "benchmarks.serving_flights", str(models), str(size.rows)], check=True)
        with needed(folder / "suite", cores[-1:]) as settings, on(cores[:1]):
            traced = serving("services.serving", folder / "traced", **settings)
            silent = serving("services.serving", folder / "silent", **settings, OTEL_TRACES_SAMPLER="always_off")
            with traced as one, silent as other, on(cores[-1:]):
                release(Path(settings["LINEAL_PROFILE"]), _KIND, models / _KIND / "model.cbm")
                _measure(report, models, {"with spans": one.address, "without spans": other.address}, size)
                written = _span_bytes(folder / "traced"), _span_bytes(folder / "silent")
        report.at_least("span files of the worker with spans", written[0] / 2**20, "MiB", 0.1)
        report.at_most("span files of the worker without, of these", written[1] / max(written[0], 1), "", 0.01)
    return report.code


def _measure(report: Report, models: Path, addresses: dict[str, str], size: Size) -> None:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(size.rounds):
        # In turn from either end, since what the machine does besides comes and goes.
        for name in sorted(addresses, reverse=bool(number % 2)):
            for figure, value in measured(addresses[name], models, _KIND, 1, _CLIENTS, size.seconds).items():
                found[name, figure].append(value)
    median = {key: statistics.median(values) for key, values in found.items()}
    for name in addresses:
        report.note(f"{name}, requests", median[name, "rate"], "/s")
        report.note(f"{name}, p50", median[name, "p50"], "ms")
    report.at_least(
        "requests with spans, of without", median["with spans", "rate"] / median["without spans", "rate"], "", _LEAST
    )


def _span_bytes(folder: Path) -> int:
    """Return how much a worker has written of spans: that both do what they are named for."""
    return sum(path.stat().st_size for path in folder.rglob("*spans*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
