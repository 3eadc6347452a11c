"""Feature vectors as a model takes them: one matrix of numbers, one of categories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular.bundle import ModelColumn


class ColumnMissing(ValueError):
    """A column that the model needs is not given; `column` names it."""

    def __init__(self, column: str) -> None:
        super().__init__(f"column {column!r} is missing")
        self.column = column


class ColumnMistyped(ValueError):
    """A column has values of another type than the model needs; `column` names it."""

    def __init__(self, column: str, wanted: str, got: str) -> None:
        super().__init__(f"column {column!r} must hold {wanted}, not {got}")
        self.column = column


@dataclass(frozen=True)
class Vectors:
    """Rows for a model.

    `numeric` is float64 of shape (rows, numeric columns), NaN for null; `categorical` is an object array of str of
    shape (rows, categorical columns), the empty text for null.
    """

    numeric: npt.NDArray[np.float64]
    categorical: npt.NDArray[np.object_]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.numeric)

    def take(self, rows: npt.NDArray[Any] | slice) -> "Vectors":
        """Return some of the rows."""
        return Vectors(self.numeric[rows], self.categorical[rows])


def assemble(columns: Sequence[ModelColumn], values: Mapping[str, npt.NDArray[Any]], rows: int) -> Vectors:
    """Arrange named arrays as a model takes them; training and serving both come through here.

    Numbers and bools become doubles. A category may be given as text, or as a whole number or bool, which becomes its
    decimal or `true`/`false`.

    Raises ColumnMissing, ColumnMistyped, and ValueError for columns that differ in length.
    """
    numeric: list[npt.NDArray[Any]] = []
    categorical = np.empty((rows, sum([column.type == "categorical" for column in columns])), dtype=object)
    texts = 0
    for column in columns:
        name = column.name
        if column.type == "categorical":
            categorical[:, texts] = categories(name, given(values, name))
            texts += 1
        elif column.type == "numeric":
            numeric.append(numbers(name, given(values, name))[:, np.newaxis])
    if not numeric:
        return Vectors(np.empty((rows, 0)), categorical)
    # One call for all, since of a few rows each call takes longer than its values.
    return Vectors(np.concatenate(numeric, axis=1, dtype=np.float64, casting="unsafe"), categorical)


def given(values: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    """Return the values of a column. Raises ColumnMissing."""
    try:
        return values[name]
    except KeyError:
        raise ColumnMissing(name) from None


def numbers(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the values of a column of numbers, NaN for null. Raises ColumnMistyped."""
    if values.dtype.kind in "fiub":
        return values
    if values.dtype.kind == "O" and all(value is None for value in values):
        return np.full(len(values), np.nan)
    raise ColumnMistyped(name, "numbers", "text" if values.dtype.kind in "OU" else str(values.dtype))


def categories(name: str, values: npt.NDArray[Any]) -> list[str]:
    """Return the values of a column of categories, the empty text for null. Raises ColumnMistyped."""
    kind = values.dtype.kind
    if kind in "OU":
        texts: list[Any] = values.tolist()
        if set(map(type, texts)) == {str}:
            return texts
        texts = ["" if value is None or value != value else value for value in texts]
        return [text if isinstance(text, str) else _category(name, text) for text in texts]
    if kind == "f":
        return ["" if value != value else _whole(name, value) for value in values.tolist()]
    if kind in "iub":
        return [_category(name, value) for value in values.tolist()]
    raise ColumnMistyped(name, "text", str(values.dtype))


def _whole(name: str, value: float) -> str:
    if not value.is_integer():
        raise ColumnMistyped(name, "text", "fractions")
    return str(int(value))


def _category(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise ColumnMistyped(name, "text", type(value).__name__)
