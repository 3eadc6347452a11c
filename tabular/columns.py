"""Convert between the contract's `Column` and numpy, Arrow and pandas.

Nulls: NaN in a numpy column of doubles, None in one of texts, a null in Arrow. Instants are microseconds since
1970-01-01 UTC everywhere.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lineal.api.tabular.v1.column_pb2 import Column

TIMESTAMP = pa.timestamp("us", tz="UTC")


def from_arrow(name: str, values: pa.Array | pa.ChunkedArray) -> Column:
    """Make a column of an Arrow array.

    Raises TypeError for a type that the contract has no values for.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    column = Column(name=name)
    nulls = array.is_null(nan_is_null=True)
    column.null_rows.extend(np.flatnonzero(nulls.to_numpy(zero_copy_only=False)).tolist())
    kind = array.type
    if pa.types.is_floating(kind):
        column.doubles.values.extend(pc.fill_null(array.cast(pa.float64()), float("nan")).to_numpy().tolist())
    elif pa.types.is_integer(kind):
        column.int64s.values.extend(pc.fill_null(array.cast(pa.int64()), 0).to_numpy().tolist())
    elif pa.types.is_boolean(kind):
        column.bools.values.extend(pc.fill_null(array, False).to_pylist())
    elif pa.types.is_timestamp(kind):
        column.timestamps.micros.extend(pc.fill_null(array.cast(TIMESTAMP).cast(pa.int64()), 0).to_numpy().tolist())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column.strings.values.extend(pc.fill_null(array, "").to_pylist())
    elif pa.types.is_null(kind):
        column.doubles.values.extend([float("nan")] * len(array))
    else:
        raise TypeError(f"column {name!r}: values of type {kind} cannot be sent; use text, numbers, bool or timestamps")
    return column


def to_arrow(column: Column) -> pa.Array:
    """Make an Arrow array of a column; NaN becomes null.

    Raises ValueError when a null row lies outside of the column.
    """
    kind = column.WhichOneof("values")
    values: pa.Array
    if kind == "doubles":
        values = pa.array(np.array(column.doubles.values, dtype=np.float64), from_pandas=True)
    elif kind == "int64s":
        values = pa.array(np.array(column.int64s.values, dtype=np.int64))
    elif kind == "bools":
        values = pa.array(list(column.bools.values), type=pa.bool_())
    elif kind == "timestamps":
        values = pa.array(np.array(column.timestamps.micros, dtype=np.int64)).cast(TIMESTAMP)
    elif kind == "strings":
        values = pa.array(list(column.strings.values), type=pa.string())
    else:
        values = pa.nulls(len(column.null_rows))
    if not column.null_rows or kind is None:
        return values
    return pc.if_else(pa.array(~_null_mask(column, len(values))), values, pa.scalar(None, type=values.type))


def from_numpy(name: str, values: npt.NDArray[Any]) -> Column:
    """Make a column of an array of doubles (NaN is null), integers, bools, datetime64, or objects of str and None."""
    column = Column(name=name)
    kind = values.dtype.kind
    if kind == "f":
        column.doubles.values.extend(values.astype(np.float64, copy=False).tolist())
        column.null_rows.extend(np.flatnonzero(np.isnan(values)).tolist())
    elif kind in "iu":
        column.int64s.values.extend(values.tolist())
    elif kind == "b":
        column.bools.values.extend(values.tolist())
    elif kind == "O":
        return from_texts(name, values.tolist())
    else:
        return from_arrow(name, pa.array(values))
    return column


def from_doubles(name: str, values: Sequence[float]) -> Column:
    """Make a column of doubles; NaN is null. For a few rows it is quicker than an array."""
    column = Column(name=name)
    column.doubles.values.extend(values)
    column.null_rows.extend(row for row, value in enumerate(values) if value != value)
    return column


def from_texts(name: str, values: Sequence[str | None]) -> Column:
    """Make a column of texts; None and NaN are null."""
    column = Column(name=name)
    nulls = [row for row, text in enumerate(values) if text is None or text != text]
    texts = list(values)
    for row in nulls:
        texts[row] = ""
    column.strings.values.extend(cast(list[str], texts))
    column.null_rows.extend(nulls)
    return column


def to_numpy(column: Column) -> npt.NDArray[Any]:
    """Make a numpy array.

    Doubles have NaN for null, bools become doubles, integers too when there are nulls; texts are objects with None;
    instants are int64 microseconds, the least int64 for null.
    """
    kind = column.WhichOneof("values")
    values: npt.NDArray[Any]
    if kind == "strings":
        values = np.empty(len(column.strings.values), dtype=object)
        values[:] = column.strings.values
    elif kind == "doubles":
        values = np.array(column.doubles.values, dtype=np.float64)
    elif kind == "int64s":
        values = np.array(column.int64s.values, dtype=np.float64 if column.null_rows else np.int64)
    elif kind == "bools":
        values = np.array(column.bools.values, dtype=np.float64)
    elif kind == "timestamps":
        values = np.array(column.timestamps.micros, dtype=np.int64)
    else:
        return np.full(len(column.null_rows), np.nan)
    if column.null_rows:
        null: object = None if kind == "strings" else np.iinfo(np.int64).min if kind == "timestamps" else np.nan
        values[_null_mask(column, len(values))] = null
    return values


def arrow_to_numpy(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Make the numpy array of an Arrow array that `to_numpy` makes of its column, without the way through a message."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return arrow_to_numpy(values.cast(kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.asarray(values.to_pandas(), dtype=object)
    if pa.types.is_timestamp(kind):
        micros = pc.fill_null(values.cast(TIMESTAMP).cast(pa.int64()), np.iinfo(np.int64).min)
        return np.asarray(micros.to_numpy(), dtype=np.int64)
    if pa.types.is_integer(kind) and not values.null_count:
        return np.asarray(values.to_numpy(), dtype=np.int64)
    return np.asarray(values.cast(pa.float64()).to_pandas(), dtype=np.float64)


def length(column: Column) -> int:
    """Count a column's rows."""
    kind = column.WhichOneof("values")
    if kind is None:
        return len(column.null_rows)
    values = getattr(column, kind)
    return len(values.micros if kind == "timestamps" else values.values)


def concatenated(columns: Sequence[Column]) -> Column:
    """Put columns of one name and type below each other."""
    if len(columns) == 1:
        return columns[0]
    whole = Column()
    rows = 0
    for column in columns:
        nulls = [rows + row for row in column.null_rows]
        rows += length(column)
        # Merging appends what is repeated, values and null rows alike.
        whole.MergeFrom(column)
        if nulls:
            whole.null_rows[len(whole.null_rows) - len(nulls) :] = nulls
    return whole


def from_table(table: pa.Table) -> list[Column]:
    """Make one column for each of a table's."""
    return [from_arrow(name, table[name]) for name in table.column_names]


def to_table(columns: Iterable[Column]) -> pa.Table:
    """Make an Arrow table; raises ValueError when the columns differ in length."""
    columns = list(columns)
    return pa.table([to_arrow(column) for column in columns], names=[column.name for column in columns])


def from_frame(frame: pd.DataFrame) -> list[Column]:
    """Make one column for each of a frame's; pandas' nulls become null rows."""
    return [
        from_arrow(str(name), pa.array(_texts(series), type=pa.string()))
        if isinstance(series.dtype, pd.CategoricalDtype)
        else from_arrow(str(name), pa.Array.from_pandas(series))
        for name, series in frame.items()
    ]


def to_frame(columns: Iterable[Column]) -> pd.DataFrame:
    """Make a pandas frame: texts as objects with None, the rest in numpy's types, instants as UTC timestamps."""
    frame: pd.DataFrame = to_table(columns).to_pandas()
    return frame


def _texts(series: "pd.Series[Any]") -> Sequence[str | None]:
    return [None if value is None or value != value else str(value) for value in series.astype(object)]


def _null_mask(column: Column, rows: int) -> npt.NDArray[np.bool_]:
    nulls = np.array(column.null_rows, dtype=np.int64)
    if len(nulls) and nulls.max() >= rows:
        raise ValueError(f"column {column.name!r}: null row {nulls.max()} lies outside of its {rows} rows")
    mask = np.zeros(rows, dtype=np.bool_)
    mask[nulls] = True
    return mask
