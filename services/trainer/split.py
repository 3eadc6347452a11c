"""Split rows: learn from the oldest, validate on later ones, leave the latest untouched; without times by lot."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabular import keys

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


def by_time(cutoff_micros: npt.NDArray[np.int64], validation: float, test: float, gap: int = 0) -> Split:
    """Split rows by cut-off; rows of one cut-off stay in one part.

    Rows whose cut-off is less than `gap` microseconds before the next part are left out. Raises TooFewRows.
    """
    rows = len(cutoff_micros)
    _check_count(rows)
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


def by_key(row_keys: pa.Table, validation: float, test: float) -> Split:
    """Split rows without times by the lot of their keys. Raises TooFewRows.

    A row that is untouched once is so in every later table and every run with at least this share for testing, so that
    a candidate and the champion before it can be compared on rows that neither has seen.
    """
    _check_count(row_keys.num_rows)
    lots = _lots(row_keys)
    tested, validated = lots < test * keys.LOTS, lots < (test + validation) * keys.LOTS
    parts = Split(np.flatnonzero(~validated), np.flatnonzero(validated & ~tested), np.flatnonzero(tested), None)
    if not (len(parts.train) and len(parts.validation) and len(parts.test)):
        raise TooFewRows("by lot a part of the rows is empty; take more rows, or larger shares")
    return parts


def untouched(row_keys: pa.Table, test: float) -> npt.NDArray[np.bool_]:
    """Return which rows `by_key` leaves untouched."""
    return _lots(row_keys) < test * keys.LOTS


def _lots(row_keys: pa.Table) -> keys.Lots:
    return keys.lots(row_keys.columns, "split")


def _check_count(rows: int) -> None:
    if rows < _LEAST_ROWS:
        raise TooFewRows(f"the training set has {rows} rows, at least {_LEAST_ROWS} are needed")


def _bounds(rows: int, validation: float, test: float) -> tuple[int, int]:
    second = rows - max(1, round(rows * test))
    return second - max(1, round(rows * validation)), second
