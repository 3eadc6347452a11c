"""Split rows by time: learn from the oldest, validate on later ones, leave the latest untouched."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
_LEAST_ROWS = 20


class TooFewRows(ValueError):
    """A training set that is too small to be split."""


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, and the cut-off in microseconds from which rows are untouched; None without times."""

    train: Rows
    validation: Rows
    test: Rows
    test_start_micros: int | None


def by_time(
    cutoff_micros: npt.NDArray[np.int64] | None, rows: int, validation: float, test: float, seed: int, gap: int = 0
) -> Split:
    """Split `rows` rows; rows of one cut-off stay in one part. Without times the split is by lot, with `seed`.

    Rows whose cut-off is less than `gap` microseconds before the next part are left out. Raises TooFewRows.
    """
    if rows < _LEAST_ROWS:
        raise TooFewRows(f"the training set has {rows} rows, at least {_LEAST_ROWS} are needed")
    if cutoff_micros is None:
        order = np.random.default_rng(seed).permutation(rows)
        first, second = _bounds(rows, validation, test)
        return Split(np.sort(order[:first]), np.sort(order[first:second]), np.sort(order[second:]), None)
    order = np.argsort(cutoff_micros, kind="stable")
    ordered = cutoff_micros[order]
    first, second = (int(np.searchsorted(ordered, ordered[bound])) for bound in _bounds(rows, validation, test))
    if not 0 < first < second < rows:
        raise TooFewRows("too many rows share one cut-off to be split by time; take a longer time range")
    # Searched for one short of the gap, so that a row exactly so far away stays.
    ends = [int(np.searchsorted(ordered, ordered[bound] - max(gap - 1, 0))) for bound in (first, second)]
    if ends[0] == 0 or ends[1] <= first:
        raise TooFewRows("the gap leaves nothing to learn from or to validate on; take a shorter one or more rows")
    return Split(order[: ends[0]], order[first : ends[1]], order[second:], int(ordered[second]))


def _bounds(rows: int, validation: float, test: float) -> tuple[int, int]:
    second = rows - max(1, round(rows * test))
    return second - max(1, round(rows * validation)), second
