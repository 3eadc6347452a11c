"""Pack the rows that a view keeps of an entity, so that adding rows is adding bytes.

A row is a record of 8-byte little-endian fields: event time, available time, when another version took its place (int64
microseconds), then the columns that are numbers (doubles, NaN for null). Texts lie beside it, a JSON array per row and
line. Rows are in log order.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.features.v1.transform_pb2 import Transform
from lineal.api.ingest.v1.dataset_pb2 import Dataset, FieldType
from services.features.assembly import times, values_of
from tabular.definitions import field_of
from tabular.keys import NEVER
from tabular.operators import Rows, operator
from tabular.transform_rules import with_transforms
from tabular.transforms import extended, needed

# The fields of a record that are times.
EVENT, AVAILABLE, SUPERSEDED = range(3)


@dataclass(frozen=True)
class Layout:
    """The columns that a view keeps, its longest window in microseconds and how many rows its lags look back.

    `transforms` make some of the columns, when rows arrive, from `sources`, the columns of the dataset that are read.
    """

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    longest_window: int
    lag: int = 1
    sources: tuple[str, ...] = ()
    transforms: tuple[Transform, ...] = ()

    @property
    def width(self) -> int:
        """Return the bytes of a row's record."""
        return 8 * (3 + len(self.numbers))


def layout_of(view: FeatureView, dataset: Dataset) -> Layout:
    """Return what a view keeps of its dataset's rows."""
    operators = [operator(feature) for feature in view.features]
    columns = sorted({op.column for op in operators if op.column})
    transforms, sources = needed(view.transforms, columns)
    dataset = with_transforms(dataset, view.transforms)
    texts = tuple(name for name in columns if _is_text(dataset, name))
    numbers = tuple(name for name in columns if name not in texts)
    longest, lag = max((op.window for op in operators), default=0), max((op.n for op in operators), default=1)
    return Layout(numbers, texts, longest, lag, tuple(sources), tuple(transforms))


def pack(layout: Layout, dataset: Dataset, table: pa.Table) -> tuple[npt.NDArray[np.int64], list[bytes]]:
    """Return the records of a table's rows as a matrix, and their lines of text (none for views without texts)."""
    event, available = times(table, dataset)
    table = extended(table, layout.transforms)
    matrix = np.empty((table.num_rows, layout.width // 8), dtype="<i8")
    matrix[:, EVENT], matrix[:, AVAILABLE], matrix[:, SUPERSEDED] = event, available, NEVER
    for n, name in enumerate(layout.numbers):
        matrix[:, 3 + n] = values_of(table[name]).astype("<f8").view("<i8")
    if not layout.texts:
        return matrix, []
    columns = [table[name].to_pylist() for name in layout.texts]
    lines = [_line(list(values)) for values in zip(*columns, strict=True)]
    return matrix, lines


def unpack(layout: Layout, states: Sequence[tuple[bytes, bytes]]) -> Rows:
    """Return the rows of several entities, whose codes are their places in `states`."""
    matrix = np.frombuffer(b"".join(numbers for numbers, _ in states), dtype="<i8").reshape(-1, layout.width // 8)
    counts = [len(numbers) // layout.width for numbers, _ in states]
    values: dict[str, npt.NDArray[Any]] = {
        name: np.ascontiguousarray(matrix[:, 3 + n]).view("<f8") for n, name in enumerate(layout.numbers)
    }
    if layout.texts:
        lines = b"".join(texts for _, texts in states).splitlines()
        rows = [json.loads(line) for line in lines]
        for n, name in enumerate(layout.texts):
            column = np.empty(len(rows), dtype=object)
            column[:] = [row[n] for row in rows]
            values[name] = column
    entity = np.repeat(np.arange(len(states)), counts)
    event, available, superseded = (np.ascontiguousarray(matrix[:, n]) for n in (EVENT, AVAILABLE, SUPERSEDED))
    return Rows(entity, event, available, values, superseded)


def _line(values: list[str | None]) -> bytes:
    # ASCII only: splitlines of bytes then finds no other line ends than ours.
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _is_text(dataset: Dataset, name: str) -> bool:
    field = field_of(dataset, name)
    return field is not None and field.type == FieldType.FIELD_TYPE_STRING
