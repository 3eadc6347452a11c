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

from lineal.api.features.v1.transform_pb2 import Transform
from tabular.bundle import Bundle, ModelColumn
from tabular.transforms import apply, needed, outputs
from tabular.vectors import ColumnMistyped, categories, given, numbers

Array = npt.NDArray[Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class OnDemand:
    """The transforms that a request needs, and the columns that they take of the request and of views."""

    transforms: Sequence[Transform]
    inputs: Sequence[ModelColumn]

    def compute(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the columns that are made of the values given. Raises ColumnMissing, ColumnMistyped."""
        if not self.transforms:
            return {}
        return apply(
            self.transforms, {column.name: _taken(column, given(values, column.name)) for column in self.inputs}
        )


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
        values = np.where(null, np.iinfo(np.int64).min, np.where(null, 0.0, values).astype(np.int64))
    if values.dtype.kind not in "iu":
        raise ColumnMistyped(name, "timestamps", str(values.dtype))
    return values.astype(np.int64).view("datetime64[us]")


def _micros(name: str, text: object) -> int:
    if text is None or text == "":
        return int(np.iinfo(np.int64).min)
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        moment = datetime.min  # noqa: DTZ901 - without a zone, so that it is refused below
    if moment.tzinfo is None:
        raise ColumnMistyped(name, "times with a zone, like 2013-07-01T12:00:00+00:00", repr(text))
    return (moment - _EPOCH) // _MICROSECOND
