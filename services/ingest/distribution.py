"""Compare the rows of a batch with those of a reference snapshot: missing values, new categories, population shift."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lineal.api.ingest.v1.rules_pb2 import DistributionCheck

_BINS = 10
_COMMONEST = 50
_LEAST_ROWS = 100
# What an empty bin counts as: without it one value in it would make the index infinite.
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class ColumnReference:
    """What is kept of a reference's column; `edges` are inner ones of numbers and times, `common` the values else."""

    missing: float
    values: pa.Array
    edges: npt.NDArray[np.float64] | None
    common: pa.Array | None
    shares: npt.NDArray[np.float64]


def summary(column: pa.ChunkedArray) -> ColumnReference:
    """Describe the column of a reference; without rows it says nothing, and every check against it holds."""
    present = column.drop_null()
    missing = column.null_count / len(column) if len(column) else 1.0
    if _is_number(column.type):
        numbers = _numbers(present)
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(numbers) else np.empty(0)
        # Integers can be categories too: few enough of them are kept as such.
        values = present.unique() if pa.types.is_integer(column.type) else pa.array([], column.type)
        return ColumnReference(missing, values, edges, None, _shares(np.searchsorted(edges, numbers), len(edges) + 1))
    counts = pc.value_counts(present)
    order = np.argsort(-counts.field("counts").to_numpy(), kind="stable")[:_COMMONEST]
    common = counts.field("values").take(pa.array(order))
    return ColumnReference(missing, present.unique(), None, common, _common_shares(present, common))


def judge(check: DistributionCheck, column: pa.ChunkedArray, reference: ColumnReference) -> str:
    """Return what is wrong with a batch's column, nothing when the check holds or there are too few rows."""
    rows = len(column)
    if rows < (check.minimum_rows or _LEAST_ROWS):
        return ""
    present = column.drop_null()
    match check.WhichOneof("limit"):
        case "missing_rate":
            missing = column.null_count / rows
            if missing - reference.missing <= check.missing_rate:
                return ""
            return (
                f"{check.name}: {missing:.1%} of {check.column} is missing, {reference.missing:.1%} in the reference; "
                f"at most {check.missing_rate:.1%} more is allowed"
            )
        case "new_categories":
            if not len(reference.values):
                return ""
            new = present.filter(pc.invert(pc.is_in(present, value_set=reference.values)))
            if len(new) / rows <= check.new_categories:
                return ""
            shown = ", ".join(map(str, new.unique()[:3].to_pylist()))
            return (
                f"{check.name}: {len(new) / rows:.1%} of the rows have a {check.column} that the reference does not "
                f"have, such as {shown}; at most {check.new_categories:.1%} is allowed"
            )
        case _:
            comparable = len(present) and reference.shares.any()
            shift = psi(reference.shares, _batch_shares(present, reference)) if comparable else 0.0
            if shift <= check.population_shift:
                return ""
            return (
                f"{check.name}: the population of {check.column} has shifted by {shift:.3f} (PSI); at most "
                f"{check.population_shift:g} is allowed"
            )


def psi(expected: Sequence[float] | npt.NDArray[np.float64], found: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Return the population stability index of two sets of shares over the same bins; empty bins count as 0.0001."""
    p, q = (np.clip(np.asarray(shares, dtype=np.float64), _LEAST_SHARE, None) for shares in (expected, found))
    return float(np.sum((q - p) * np.log(q / p)))


def _batch_shares(present: pa.ChunkedArray, reference: ColumnReference) -> npt.NDArray[np.float64]:
    if reference.edges is None:
        assert reference.common is not None
        return _common_shares(present, reference.common)
    return _shares(np.searchsorted(reference.edges, _numbers(present)), len(reference.edges) + 1)


def _common_shares(present: pa.ChunkedArray, common: pa.Array) -> npt.NDArray[np.float64]:
    places = pc.fill_null(pc.index_in(present, value_set=common), len(common)).to_numpy()
    return _shares(places, len(common) + 1)


def _shares(places: npt.NDArray[Any], bins: int) -> npt.NDArray[np.float64]:
    return np.bincount(places, minlength=bins) / max(len(places), 1)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind))


def _numbers(values: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    numbers: npt.NDArray[np.float64] = values.to_numpy().astype(np.float64)
    return numbers
