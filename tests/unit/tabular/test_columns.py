from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lineal.api.tabular.v1.column_pb2 import Column, DoubleValues
from tabular import columns

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
ARRAYS = {
    "text": pa.array(["a", None, "ü"]),
    "number": pa.array([1.5, None, -0.0]),
    "integer": pa.array([1, None, 2**62]),
    "truth": pa.array([True, None, False]),
    "time": pa.array([NOON, None, NOON], type=columns.TIMESTAMP),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrow_columns_come_back_equal(name: str) -> None:
    column = columns.from_arrow(name, ARRAYS[name])
    assert list(column.null_rows) == [1]
    assert columns.length(column) == 3
    assert columns.to_arrow(Column.FromString(column.SerializeToString())).equals(ARRAYS[name])


def test_nan_is_null() -> None:
    column = columns.from_numpy("x", np.array([1.0, np.nan]))
    assert list(column.null_rows) == [1]
    assert columns.to_arrow(column).null_count == 1
    assert np.isnan(columns.to_numpy(column)[1])


def test_texts_come_back_as_objects_with_none() -> None:
    values = np.array(["a", None, "b"], dtype=object)
    assert columns.to_numpy(columns.from_numpy("s", values)).tolist() == ["a", None, "b"]


def test_a_frame_comes_back_equal() -> None:
    frame = pd.DataFrame({"s": ["a", None], "x": [1.0, np.nan], "n": [1, 2], "t": pd.to_datetime([NOON, NOON])})
    frame["t"] = frame["t"].astype("datetime64[us, UTC]")
    pd.testing.assert_frame_equal(columns.to_frame(columns.from_frame(frame)), frame)


def test_categories_become_texts() -> None:
    frame = pd.DataFrame({"c": pd.Categorical(["a", None, "a"])})
    assert columns.to_numpy(columns.from_frame(frame)[0]).tolist() == ["a", None, "a"]


def test_a_null_row_outside_of_the_column_is_refused() -> None:
    column = Column(name="x", doubles=DoubleValues(values=[1.0]), null_rows=[1])
    with pytest.raises(ValueError, match="lies outside"):
        columns.to_numpy(column)


def test_an_unsupported_type_is_named() -> None:
    with pytest.raises(TypeError, match="list<"):
        columns.from_arrow("x", pa.array([[1]]))
