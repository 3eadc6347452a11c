"""Compute the transforms of a bundle's feature set from what a request brings and what was looked up for it.

Training sets compute the same transforms with the same operators (`tabular/transforms.py`); what is here brings the
columns of a request into the form that these take.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lineal.api.features.v1.feature_set_pb2 import ColumnType
from lineal.api.features.v1.parity_pb2 import FeatureValue
from lineal.api.features.v1.transform_pb2 import Transform
from tabular.bundle import Bundle, ModelColumn
from tabular.transforms import apply, needed, outputs
from tabular.vectors import ColumnMistyped, categories, given, numbers

Array = npt.NDArray[Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NO_TIME = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class OnDemand:
    """The transforms that a request needs, and the columns that they take of the request and of views."""

    transforms: Sequence[Transform]
    inputs: Sequence[ModelColumn]

    def take(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return, of the values given, what the transforms take. Raises ColumnMissing, ColumnMistyped."""
        return {column.name: _taken(column, given(values, column.name)) for column in self.inputs}

    def compute(self, taken: Mapping[str, Array]) -> dict[str, Array]:
        """Return the columns that are made of what was taken."""
        return apply(self.transforms, taken) if self.transforms else {}


def on_demand(bundle: Bundle, names: Container[str]) -> OnDemand:
    """Return what must be computed for a request that brings columns of these names."""
    if not bundle.transforms:
        return OnDemand((), ())
    made = [column.name for column in bundle.columns if column.source == "transform"]
    # As with what is looked up, a column that the caller knows need not be computed.
    brought = {name for name in made if name in names}
    left = [each for each in bundle.transforms if not brought.issuperset(outputs(each))]
    transforms, taken = needed(left, [name for name in made if name not in brought])
    known = {column.name: column for column in (*bundle.columns, *bundle.inputs)}
    return OnDemand(transforms, [known[name] for name in taken])


def recorded(taken: Mapping[str, Array], row: int) -> list[FeatureValue]:
    """Return what transforms took for a row, as its record has it."""
    return [_recorded(name, values[row]) for name, values in taken.items()]


def from_records(records: Sequence[FeatureValue], kind: ColumnType.ValueType) -> Array:
    """Return the recorded values of a column as transforms took them."""
    if kind == ColumnType.COLUMN_TYPE_CATEGORICAL:
        texts = np.empty(len(records), dtype=object)
        texts[:] = [each.text if each.HasField("text") else None for each in records]
        return texts
    if kind == ColumnType.COLUMN_TYPE_TIME:
        micros = [each.time_micros if each.HasField("time_micros") else _NO_TIME for each in records]
        return np.array(micros, dtype=np.int64).view("datetime64[us]")
    return np.array([each.number if each.HasField("number") else np.nan for each in records], dtype=np.float64)


def _recorded(column: str, value: Any) -> FeatureValue:
    if value is None or value != value:
        return FeatureValue(column=column)
    if isinstance(value, np.datetime64):
        return FeatureValue(column=column, time_micros=int(value.astype(np.int64)))
    return (
        FeatureValue(column=column, text=value) if isinstance(value, str) else FeatureValue(column=column, number=value)
    )


def _taken(column: ModelColumn, values: Array) -> Array:
    """Return the values of a column as transforms take them."""
    match column.type:
        case "numeric":
            return numbers(column.name, values).astype(np.float64)
        case "categorical":
            made = np.array(categories(column.name, values), dtype=object)
            made[pd.isna(values)] = None
            return made
        case "time":
            return _instants(column.name, values)


def _instants(name: str, values: Array) -> Array:
    """Return instants: of whole microseconds since 1970-01-01 UTC, or of texts in ISO 8601 with a zone."""
    if values.dtype.kind == "O":
        micros = [_micros(name, text) for text in values.tolist()]
        return np.array(micros, dtype=np.int64).view("datetime64[us]")
    if values.dtype.kind == "f":
        null = np.isnan(values)
        if not np.array_equal(np.trunc(values[~null]), values[~null]):
            raise ColumnMistyped(name, "whole microseconds or timestamps", "fractions")
        values = np.where(null, _NO_TIME, np.where(null, 0.0, values).astype(np.int64))
    if values.dtype.kind not in "iu":
        raise ColumnMistyped(name, "timestamps", str(values.dtype))
    return values.astype(np.int64).view("datetime64[us]")


def _micros(name: str, text: object) -> int:
    if text is None or text == "":
        return _NO_TIME
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        moment = datetime.min  # noqa: DTZ901 - without a zone, so that it is refused below
    if moment.tzinfo is None:
        raise ColumnMistyped(name, "times with a zone, like 2013-07-01T12:00:00+00:00", repr(text))
    return (moment - _EPOCH) // _MICROSECOND
