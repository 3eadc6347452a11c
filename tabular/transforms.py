"""Compute columns from other columns of the same row: a small closed set of declared operators, vectorised.

Training sets, online state and explanations come through here, so that a value is the same in all of them. Numbers are
doubles with NaN for null (infinities count as null); texts objects with None; times datetime64[us] in UTC with NaT.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lineal.api.features.v1.transform_pb2 import Calendar, CalendarPart, Transform

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

# The declared columns of each kind, by the names of its fields.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "ratio": ("numerator", "denominator"),
    "difference": ("left", "right"),
    "product": ("left", "right"),
    "cross": ("left", "right"),
    "bins": ("column",),
    "calendar": ("column",),
    "text_length": ("column",),
    "impute": ("column",),
    "clip": ("column",),
    "scale": ("column",),
}
_PARTS = {
    CalendarPart.CALENDAR_PART_MINUTE: "minute",
    CalendarPart.CALENDAR_PART_HOUR: "hour",
    CalendarPart.CALENDAR_PART_DAY_OF_WEEK: "dayofweek",
    CalendarPart.CALENDAR_PART_DAY_OF_MONTH: "day",
    CalendarPart.CALENDAR_PART_DAY_OF_YEAR: "dayofyear",
    CalendarPart.CALENDAR_PART_MONTH: "month",
    CalendarPart.CALENDAR_PART_QUARTER: "quarter",
    CalendarPart.CALENDAR_PART_YEAR: "year",
}


def sources(transform: Transform) -> list[str]:
    """Return the columns that a transform is computed from."""
    kind = transform.WhichOneof("kind")
    return [getattr(getattr(transform, kind), name) for name in COLUMNS[kind]] if kind else []


def outputs(transform: Transform) -> list[str]:
    """Return the columns that a transform makes: its own, and a flag where one is declared."""
    flag = transform.impute.flag if transform.WhichOneof("kind") == "impute" else ""
    return [transform.name, flag] if flag else [transform.name]


def needed(transforms: Sequence[Transform], columns: Iterable[str]) -> tuple[list[Transform], list[str]]:
    """Return, for wanted columns, the transforms that must be computed, in order, and the columns that must be read."""
    wanted = dict.fromkeys(columns)
    chosen: list[Transform] = []
    for transform in reversed(transforms):
        if any(name in wanted for name in outputs(transform)):
            chosen.insert(0, transform)
            wanted.update(dict.fromkeys(sources(transform)))
    made = {name for transform in chosen for name in outputs(transform)}
    return chosen, [name for name in wanted if name not in made]


def extended(table: pa.Table, transforms: Sequence[Transform]) -> pa.Table:
    """Return a table with the columns that transforms make."""
    if not transforms:
        return table
    values = {
        name: from_arrow(table[name]) for each in transforms for name in sources(each) if name in table.schema.names
    }
    for name, made in apply(transforms, values).items():
        texts = made.dtype == object
        table = table.append_column(name, pa.array(made, type=pa.string() if texts else pa.float64(), from_pandas=True))
    return table


def from_arrow(column: pa.ChunkedArray | pa.Array) -> Array:
    """Return a column as transforms take it."""
    if pa.types.is_string(column.type):
        return np.asarray(column.to_pandas(), dtype=object)
    if pa.types.is_timestamp(column.type):
        micros = pc.fill_null(column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()), np.iinfo(np.int64).min)
        return np.asarray(micros.to_numpy(), dtype=np.int64).view("datetime64[us]")
    return np.asarray(column.cast(pa.float64()).to_pandas(), dtype=np.float64)


def apply(transforms: Sequence[Transform], values: Mapping[str, Array]) -> dict[str, Array]:
    """Return the columns that valid transforms make, in order; each may take those before it."""
    known = dict(values)
    found: dict[str, Array] = {}
    for transform in transforms:
        with np.errstate(all="ignore"):  # what is no number becomes null
            made = _computed(transform, [known[name] for name in sources(transform)])
        for name, column in zip(outputs(transform), made, strict=False):
            known[name] = found[name] = column
    return found


def _computed(transform: Transform, given: Sequence[Array]) -> tuple[Array, ...]:
    match transform.WhichOneof("kind"):
        case "ratio":
            return (_finite(_numbers(given[0]) / _numbers(given[1])),)
        case "difference":
            return (_difference(*given),)
        case "product":
            return (_finite(_numbers(given[0]) * _numbers(given[1])),)
        case "cross":
            return (_cross(*given),)
        case "bins":
            numbers = _numbers(given[0])
            places = np.searchsorted(np.array(transform.bins.edges), numbers, side="right").astype(np.float64)
            return (np.where(np.isnan(numbers), np.nan, places),)
        case "calendar":
            return (_part(transform.calendar, given[0]),)
        case "text_length":
            lengths = (np.nan if text is None else float(len(text)) for text in given[0])
            return (np.fromiter(lengths, dtype=np.float64, count=len(given[0])),)
        case "impute":
            return _imputed(transform, given[0])
        case "clip":
            least = transform.clip.minimum if transform.clip.HasField("minimum") else -np.inf
            most = transform.clip.maximum if transform.clip.HasField("maximum") else np.inf
            return (np.clip(_numbers(given[0]), least, most),)
        case "scale":
            return (_finite((_numbers(given[0]) - transform.scale.center) / transform.scale.width),)
        case kind:
            raise ValueError(f"transform {transform.name!r}: no such kind: {kind}")


def _numbers(values: Array) -> Doubles:
    return _finite(values.astype(np.float64))


def _finite(values: Doubles) -> Doubles:
    return np.where(np.isfinite(values), values, np.nan)


def _difference(left: Array, right: Array) -> Doubles:
    if left.dtype.kind != "M":
        return _finite(_numbers(left) - _numbers(right))
    micros = (left - right).astype(np.int64).astype(np.float64)
    return np.where(np.isnat(left) | np.isnat(right), np.nan, micros / 1e6)


def _cross(left: Array, right: Array) -> Array:
    made = np.empty(len(left), dtype=object)
    made[:] = [
        None if a is None or b is None else f"{_escaped(a)}|{_escaped(b)}" for a, b in zip(left, right, strict=True)
    ]
    return made


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _part(calendar: Calendar, times: Array) -> Doubles:
    local = pd.DatetimeIndex(times).tz_localize("UTC").tz_convert(calendar.zone or "UTC")
    part = np.asarray(getattr(local, _PARTS[calendar.part]), dtype=np.float64)
    return part + 1 if calendar.part == CalendarPart.CALENDAR_PART_DAY_OF_WEEK else part


def _imputed(transform: Transform, given: Array) -> tuple[Array, ...]:
    if given.dtype == object:
        null = np.fromiter((text is None for text in given), dtype=np.bool_, count=len(given))
        made = given.copy()
        made[null] = transform.impute.text
    else:
        made = _numbers(given)
        null = np.isnan(made)
        made[null] = transform.impute.number
    return made, null.astype(np.float64)
