from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabular import schema
from tabular.columns import TIMESTAMP
from tests.unit.tabular.declarations import trips

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
# Parts of times, put together to some that can be read and many that nearly can.
DATES = st.sampled_from(["2024-05-01", "2024-13-01", "2024-02-30", "0001-01-01", "20240501", "2024-5-1", ""])
CLOCKS = st.sampled_from(
    ["T12:00:00", " 12:00", "T12", "T12:00:00.123456", "T12:00:00.1234567", "T25:00:00", "t12:00:00", ""]
)
ZONES = st.sampled_from(["Z", "+02:00", "-0530", "+02", " Z", "+2", "z", "UTC", "\n", ""])
NUMBERS = st.floats().map(str) | st.integers().map(str) | st.text("+-.019eExXinfaINFA _", max_size=6)
TIMES = st.tuples(DATES, CLOCKS, ZONES).map("".join) | st.text(max_size=8)


def table(**changes: pa.Array) -> pa.Table:
    columns = {
        "trip": pa.array(["a", "b"]),
        "driver": pa.array(["x", None]),
        "km": pa.array([1.0, None]),
        "start": pa.array([NOON, NOON], type=pa.timestamp("us", tz="UTC")),
        "told": pa.array([NOON, NOON], type=pa.timestamp("us", tz="UTC")),
    }
    return pa.table({name: array for name, array in (columns | changes).items() if array is not None})


def violations(**changes: pa.Array | None) -> dict[str, str]:
    with pytest.raises(schema.SchemaMismatch) as caught:
        schema.normalise(table(**changes), trips())
    return {v.field: v.description for v in caught.value.violations}


def test_integers_become_doubles_and_columns_their_declared_order() -> None:
    given = table(km=pa.array([1, 2], type=pa.int32()))
    result = schema.normalise(given.select(["told", "km", "start", "driver", "trip"]), trips()).table
    assert result.schema == schema.arrow_schema(trips())
    assert result["km"].to_pylist() == [1.0, 2.0]


def test_nan_becomes_null() -> None:
    assert schema.normalise(table(km=pa.array([float("nan"), 1.0])), trips()).table["km"].null_count == 1


def test_other_zones_become_utc() -> None:
    moved = table()["start"].cast(pa.timestamp("ns", tz="Europe/Berlin"))
    assert schema.normalise(table(start=moved), trips()).table["start"].to_pylist() == [NOON, NOON]


def test_a_naive_time_is_refused_with_what_to_do() -> None:
    naive = pa.array([datetime(2024, 1, 1), None], type=pa.timestamp("us"))  # noqa: DTZ001 the point of the test
    assert "tz_localize" in violations(start=naive)["start"]


def test_every_wrong_column_is_named_with_a_hint() -> None:
    found = violations(driver=None, driverr=pa.array(["x", "y"]))
    assert "did you mean 'driver'?" in found["driverr"]
    assert "did you mean 'driverr'?" in found["driver"]


def test_a_column_of_another_type_is_refused() -> None:
    assert "such as 'x', declared is numbers" in violations(km=pa.array(["x", None]))["km"]


def test_text_that_reads_as_a_number_is_one() -> None:
    assert schema.normalise(table(km=pa.array(["1.5", " "])), trips()).table["km"].to_pylist() == [1.5, None]


def test_a_text_that_does_not_read_is_told_by_row() -> None:
    result = schema.normalise(table(km=pa.array(["1", "x"])), trips())
    assert result.table["km"].to_pylist() == [1.0, None]
    assert result.unreadable == {1: {"km": "must be a number, not 'x'"}}


def test_a_lossy_cast_is_told_by_row() -> None:
    result = schema.normalise(table(km=pa.array([2**60 + 1, 1])), trips())
    assert result.table["km"].to_pylist() == [None, 1.0]
    assert "without loss" in result.unreadable[0]["km"]


@given(st.lists(TIMES, max_size=40), st.lists(NUMBERS, max_size=40))
def test_a_text_reads_as_it_would_alone(times: list[str], numbers: list[str]) -> None:
    for name, kind, texts in (("start", TIMESTAMP, [NOON.isoformat(), *times]), ("km", pa.float64(), ["1", *numbers])):
        rows = pa.concat_tables([table().slice(0, 1)] * len(texts))
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(texts))
        result = schema.normalise(rows, trips())
        assert result.table[name].to_pylist() == [value if value == value else None for value in alone(texts, kind)]
        assert set(result.unreadable) == {
            row for row, value in enumerate(alone(texts, kind)) if value is None and texts[row].strip()
        }


def alone(texts: list[str], kind: pa.DataType) -> list[object]:
    """Return what each text reads as by itself, None where it does not."""
    found: list[object] = []
    for text in texts:
        try:
            found.append(pa.scalar(text).cast(kind).as_py())
        except pa.ArrowInvalid:
            found.append(None)
    return found
