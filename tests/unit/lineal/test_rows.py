"""The bytes of rows: fixed for ever, since roots in the log stand for them."""

import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from lineal.rows import RowWrong, decode, encode, leaf_hashes, tabled

_KINDS: dict[str, tuple[FieldType.ValueType, pa.DataType]] = {
    "name": (FieldType.FIELD_TYPE_STRING, pa.string()),
    "count": (FieldType.FIELD_TYPE_INT64, pa.int64()),
    "share": (FieldType.FIELD_TYPE_FLOAT64, pa.float64()),
    "paid": (FieldType.FIELD_TYPE_BOOL, pa.bool_()),
    "at": (FieldType.FIELD_TYPE_TIMESTAMP, pa.timestamp("us", tz="UTC")),
    "note": (FieldType.FIELD_TYPE_STRING, pa.string()),
}
_ROW: dict[str, Any] = {
    "name": "Ann",
    "count": -2,
    "share": 0.5,
    "paid": True,
    "at": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
    "note": "é",
}
_NOTHING = dict.fromkeys(_ROW)


def dataset(*names: str) -> Dataset:
    return Dataset(name="d", fields=[Field(name=name, type=_KINDS[name][0]) for name in names or _KINDS])


def table(rows: list[dict[str, Any]], *names: str) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, _KINDS[name][1]) for name in names or _KINDS]))


def test_a_row_has_the_bytes_that_the_log_was_promised() -> None:
    there, nothing = encode(table([_ROW, _NOTHING]))
    assert there == (
        b"lineal row v1\n"
        + b"\x01" * 6
        + struct.pack("<qdqq", -2, 0.5, 1, 1_000_000)
        + struct.pack("<II", 3, 2)
        + b"Ann\xc3\xa9"
    )
    assert nothing == b"lineal row v1\n" + bytes(6 + 4 * 8 + 2 * 4)
    assert leaf_hashes(table([_ROW]))[0].hex() == "3ad0253430633755d7af8b3b9dd84aaf0ae6b8c5cba41ae66561ac0620467706"


@pytest.mark.parametrize("names", [("name",), ("count",), ("note", "at"), tuple(_KINDS)])
def test_rows_come_back_as_they_were(names: tuple[str, ...]) -> None:
    rows = [{name: row[name] for name in names} for row in (_ROW, _NOTHING)]
    encoded = encode(table(rows, *names))
    assert [decode(dataset(*names), data) for data in encoded] == rows
    assert tabled(dataset(*names), encoded) == table(rows, *names)


_times = st.integers(-(10**15), 10**16).map(lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(0, 0, micros))
_rows = st.fixed_dictionaries(
    {
        "name": st.none() | st.text(st.characters(codec="utf-8")),
        "count": st.none() | st.integers(-(2**63), 2**63 - 1),
        "share": st.none() | st.floats(allow_nan=False),
        "paid": st.none() | st.booleans(),
        "at": st.none() | _times,
        "note": st.none() | st.text(st.characters(codec="utf-8")),
    }
)


@given(st.lists(_rows, max_size=5))
def test_any_rows_come_back_and_slices_have_the_same_bytes(rows: list[dict[str, Any]]) -> None:
    whole = table(rows)
    encoded = encode(whole)
    assert [decode(dataset(), data) for data in encoded] == rows
    cut = pa.concat_tables([whole.slice(0, 2), whole.slice(2)])
    assert encode(cut) == encoded
    assert encode(whole.slice(1)) == encoded[1:]


@pytest.mark.parametrize(
    "data",
    [b"", b"lineal row v2\n" + bytes(46), encode(table([_ROW]))[0] + b"x", encode(table([_ROW]))[0][:-1]],
)
def test_bytes_that_are_no_row_are_refused(data: bytes) -> None:
    with pytest.raises(RowWrong):
        decode(dataset(), data)


def test_what_lies_under_a_null_must_be_nothing() -> None:
    data = bytearray(encode(table([_ROW]))[0])
    data[14 + 1] = 0
    with pytest.raises(RowWrong):
        decode(dataset(), bytes(data))


def test_times_before_the_epoch_count_backwards() -> None:
    before = datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)
    assert encode(table([{"at": before}], "at"))[0][-8:] == b"\xff" * 8
