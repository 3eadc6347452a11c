"""What the guard of a bundle costs beside scoring, in process.

`python -m benchmarks.guard [--quick]`. The two models of `benchmarks/serving.py`, each with the guard of the rows that
it was fitted on, score other rows by the compiled applier. Scoring is what `services/serving/predictor.py` does between
the columns of a request and its answer: arrange them, score, decide; the model's own call is shown, too. Both and the
guard take turns in each round, in this process's CPU time; figures are medians of the rounds. The goal is for one row.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import Report
from benchmarks.serving_flights import KINDS, TEXTS, learnt, rows
from services.trainer import guarding
from tabular.bundle import Bundle, ModelColumn
from tabular.guard import Finding, Guard
from tabular.scorer import Scorer
from tabular.vectors import Vectors, assemble

_MOST_SHARE = 0.2
# The limit is fitted on them, and the scorer compares its applier with CatBoost on them, see `tabular/scorer.py`.
_VALIDATED = 2_000
_TITLES = {"texts": "four texts and six numbers", "numbers": "ten numbers"}


@dataclass(frozen=True)
class Size:
    """How much is measured: rows to fit on, rounds of so many calls."""

    rows: int
    rounds: int
    calls: int


FULL = Size(rows=100_000, rounds=15, calls=4_000)
QUICK = Size(rows=20_000, rounds=7, calls=1_000)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    size = QUICK if "--quick" in sys.argv[1:] else FULL
    report = Report()
    with tempfile.TemporaryDirectory(prefix="lineal-bench-", ignore_cleanup_errors=True) as name:
        models = Path(name)
        subprocess.run([sys.executable, "-m", "benchmarks.serving_flights", str(models), str(size.rows)], check=True)
        for kind in KINDS:
            _measure(report, models, kind, size)
    return report.code


def _measure(report: Report, models: Path, kind: str, size: Size) -> None:
    fitted_on, frame = learnt(models, kind), rows(models, kind)
    texts = TEXTS if kind == "texts" else []
    columns = tuple(ModelColumn(name, "categorical" if name in texts else "numeric") for name in frame.columns)
    bundle = Bundle(kind, "binary", columns, {})
    scorer = Scorer(bundle, (models / kind / "model.cbm").read_bytes(), compiled=True)
    validated, asked = _vectors(columns, frame[:_VALIDATED]), frame[_VALIDATED:]
    guard = guarding.fit(bundle, _vectors(columns, fitted_on), validated)
    scorer.score(validated)
    if not scorer.compiled:
        raise SystemExit("the compiled applier does not score this model here; there is no fast path to compare with")
    for count in (1, 100):
        title = f"{_TITLES[kind]}, {count} row{'s' if count > 1 else ''}"
        parts = [_Part(columns, asked[at : at + count]) for at in range(0, len(asked) - count + 1, count)]
        found = sum(len(part.guarded(guard)) for part in parts) / len(asked)
        scoring, call, guarded = _alternating(
            parts,
            size,
            lambda part: scorer.decide(scorer.score(assemble(columns, part.columns, part.rows)).calibrated),
            lambda part: scorer.score(part.vectors),
            lambda part: part.guarded(guard),
        )
        report.note(f"{title}, something is found in", found * 100, "% of rows")
        report.note(f"{title}, scoring", scoring, "us")
        report.note(f"{title}, the model's own call", call, "us")
        report.note(f"{title}, guard", guarded, "us")
        report.note(f"{title}, guard, of the model's own call", guarded / call, "")
        if count == 1:
            report.at_most(f"{title}, guard, of scoring", guarded / scoring, "", _MOST_SHARE)
        else:
            report.note(f"{title}, guard, of scoring", guarded / scoring, "")


def _vectors(columns: tuple[ModelColumn, ...], frame: pd.DataFrame) -> Vectors:
    return assemble(columns, {name: frame[name].to_numpy() for name in frame.columns}, len(frame))


class _Part:
    """Rows of one request, as each of the measured takes them."""

    def __init__(self, columns: tuple[ModelColumn, ...], frame: pd.DataFrame) -> None:
        self.columns = {name: frame[name].to_numpy() for name in frame.columns}
        self.rows = len(frame)
        self.vectors = assemble(columns, self.columns, self.rows)
        self._numbers, self._texts = self.vectors.numeric.tolist(), self.vectors.categorical.tolist()

    def guarded(self, guard: Guard) -> Sequence[Finding]:
        """Look at the rows."""
        return guard.find(self.vectors, self._numbers, self._texts)


def _alternating(parts: Sequence[_Part], size: Size, *measured: Callable[[_Part], object]) -> list[float]:
    """Return the median microseconds of one call, for each of what is measured."""
    chance = np.random.default_rng(0)
    calls = max(1, size.calls // parts[0].rows)
    found: list[list[float]] = [[] for _ in measured]
    for _ in range(size.rounds):
        chosen = [parts[index] for index in chance.integers(0, len(parts), calls)]
        for taken, call in zip(found, measured, strict=True):
            started = time.process_time()
            for part in chosen:
                call(part)
            taken.append((time.process_time() - started) / calls * 1e6)
    return [statistics.median(taken) for taken in found]


if __name__ == "__main__":
    sys.exit(main())
