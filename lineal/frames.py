"""DataFrames and Arrow tables to the contract's columns and IPC bytes, and back."""

import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lineal.api.tabular.v1.column_pb2 import Column

# A message may have 4 MiB; what is not rows needs little.
_BATCH_BYTES = 3 * 1024 * 1024
_BATCH_ROWS = 50_000


def as_table(rows: "pd.DataFrame | pa.Table | pa.RecordBatch") -> pa.Table:
    """Return rows as an Arrow table.

    A column of mixed values goes as text, so that the service can tell the rows whose value is of the wrong type.
    Raises TypeError for anything else.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, pd.DataFrame):
        return pa.Table.from_arrays([_array(values) for _, values in rows.items()], [str(name) for name in rows])
    raise TypeError(f"rows must be a pandas DataFrame or an Arrow table, not {type(rows).__name__}")


def _array(values: "pd.Series[Any]") -> pa.Array:
    try:
        return pa.Array.from_pandas(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if gone else str(value) for value, gone in zip(values, values.isna(), strict=True)])


def batches(table: pa.Table) -> Iterator[bytes]:
    """Yield a table as IPC streams that fit into a message each."""
    rows = max(1, min(_BATCH_ROWS, int(len(table) * _BATCH_BYTES / max(table.nbytes, 1)) or 1))
    start = 0
    while start < len(table):
        data = ipc(table.slice(start, rows))
        if len(data) > _BATCH_BYTES and rows > 1:
            # Strings of very different length: this slice is heavier than the average.
            rows = max(1, rows // 2)
            continue
        yield data
        start += rows


def from_pieces(pieces: Iterable[bytes]) -> pd.DataFrame:
    """Return the frame of an IPC stream that came in pieces."""
    frame: pd.DataFrame = pa.ipc.open_stream(io.BytesIO(b"".join(pieces))).read_all().to_pandas()
    return frame


def columns(rows: pd.DataFrame) -> list[Column]:
    """Return one column per column of a frame; missing values become null rows."""
    return [_column(str(name), values) for name, values in rows.items()]


def columns_by_row(rows: pd.DataFrame) -> list[list[Column]]:
    """Return the columns of each row by itself, of the types that they have in the whole frame."""
    return [list(row) for row in zip(*(_apart(column) for column in columns(rows)), strict=True)]


def micros(moments: "datetime | pd.Series[Any] | Iterable[datetime]") -> list[int]:
    """Return instants as microseconds since 1970-01-01 UTC.

    Raises ValueError for times without a zone.
    """
    series = pd.Series([moments] if isinstance(moments, datetime) else moments)
    if not isinstance(series.dtype, pd.DatetimeTZDtype):
        raise ValueError("event times need a time zone; use for example pd.to_datetime(..., utc=True)")
    found: list[int] = series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]").astype(int).tolist()
    return found


def ipc(table: pa.Table) -> bytes:
    """Return a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _apart(column: Column) -> Iterator[Column]:
    kind = str(column.WhichOneof("values"))
    values = getattr(column, kind)
    field = "micros" if kind == "timestamps" else "values"
    nulls = set(column.null_rows)
    for row, value in enumerate(getattr(values, field)):
        alone: dict[str, Any] = {kind: type(values)(**{field: [value]})}
        yield Column(name=column.name, null_rows=[0] if row in nulls else [], **alone)


def _column(name: str, series: "pd.Series[Any]") -> Column:
    column = Column(name=name)
    missing = series.isna().to_numpy()
    column.null_rows.extend(np.flatnonzero(missing).tolist())
    kind = series.dtype
    if isinstance(kind, pd.DatetimeTZDtype):
        filled = series.fillna(pd.Timestamp(0, tz="UTC"))
        column.timestamps.micros.extend(micros(filled))
    elif pd.api.types.is_bool_dtype(kind):
        column.bools.values.extend(series.fillna(False).astype(bool).tolist())
    elif pd.api.types.is_integer_dtype(kind):
        column.int64s.values.extend(series.fillna(0).astype("int64").tolist())
    elif pd.api.types.is_float_dtype(kind):
        column.doubles.values.extend(series.astype("float64").tolist())
    elif missing.all():
        column.doubles.values.extend([float("nan")] * len(series))
    else:
        column.strings.values.extend(
            "" if gone else str(value) for value, gone in zip(series.tolist(), missing, strict=True)
        )
    return column
