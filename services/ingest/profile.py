"""Describe the columns of a snapshot, the same bytes for the same rows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabular import keys
from tabular.columns import TIMESTAMP

_COMMONEST = 10
# Snapshots with more rows are read one column at a time, so that memory stays bounded.
_ROWS_AT_ONCE = 2_000_000


Read = Callable[[Sequence[str]], pa.Table]


def profile(rows: int, schema: pa.Schema, row_key: Sequence[str], read: Read) -> dict[str, Any]:
    """Return a JSON document on the columns that `read` gives by name, in log order.

    The rows that repeat the row of their key before them, and those that correct it. Per column: the missing and
    distinct counts, the range, the mean of numbers and the commonest values.
    """
    groups = [schema.names] if rows <= _ROWS_AT_ONCE else [[name] for name in schema.names]
    columns: dict[str, Any] = {}
    for names in groups:
        table = read(names)
        columns |= {name: _column(table[name]) for name in names}
    return {"rows": rows, **_again(schema, row_key, read), "columns": columns}


def _again(schema: pa.Schema, row_key: Sequence[str], read: Read) -> dict[str, int]:
    """Count repetitions and corrections."""
    (code,) = keys.codes([read([name])[name] for name in row_key])
    several = np.flatnonzero((np.bincount(code + 1)[code + 1] > 1) & (code >= 0))
    order = several[np.argsort(code[several], kind="stable")]
    again = code[order][1:] == code[order][:-1]
    same = again.copy()
    for name in schema.names if len(order) else ():
        column = read([name])[name].take(pa.array(order))
        same &= _equal(column.slice(1), column.slice(0, len(column) - 1))
    return {"repeated_rows": int(same.sum()), "corrected_rows": int(again.sum() - same.sum())}


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    both_null = pc.and_(pc.is_null(one), pc.is_null(other))
    equal: npt.NDArray[np.bool_] = pc.or_(pc.fill_null(pc.equal(one, other), False), both_null).to_numpy()
    return equal


def _column(values: pa.ChunkedArray) -> dict[str, Any]:
    present = values.drop_null()
    found: dict[str, Any] = {"type": str(values.type), "missing": values.null_count, "distinct": 0}
    if not len(present):
        return found
    counts = pc.value_counts(present)
    found["distinct"] = len(counts)
    ends = pc.min_max(present).as_py() if not pa.types.is_boolean(values.type) else None
    if ends:
        found |= {"min": _json(ends["min"], values.type), "max": _json(ends["max"], values.type)}
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type):
        found["mean"] = pc.mean(present).as_py()
    if len(counts) < len(present):
        # Ties are ordered by value, so that the document does not depend on a hash's order.
        table = pa.table({"value": counts.field("values"), "count": counts.field("counts")})
        top = table.sort_by([("count", "descending"), ("value", "ascending")]).slice(0, _COMMONEST)
        found["commonest"] = [
            {"value": _json(value, values.type), "count": count}
            for value, count in zip(top["value"].to_pylist(), top["count"].to_pylist(), strict=True)
        ]
    return found


def _json(value: Any, kind: pa.DataType) -> Any:
    return value.isoformat() if kind == TIMESTAMP else value
