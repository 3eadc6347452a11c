"""Describe the columns of a snapshot, the same bytes for the same rows."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tabular.columns import TIMESTAMP

_COMMONEST = 10
# Snapshots with more rows are read one column at a time, so that memory stays bounded.
_ROWS_AT_ONCE = 2_000_000


def profile(rows: int, schema: pa.Schema, read: Callable[[Sequence[str]], pa.Table]) -> dict[str, Any]:
    """Return a JSON document on the columns that `read` gives by name.

    Per column: the missing and distinct counts, the range, the mean of numbers and the commonest values.
    """
    groups = [schema.names] if rows <= _ROWS_AT_ONCE else [[name] for name in schema.names]
    columns: dict[str, Any] = {}
    for names in groups:
        table = read(names)
        columns |= {name: _column(table[name]) for name in names}
    return {"rows": rows, "columns": columns}


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
