"""Rows as the bytes that are hashed: one form for each row, whatever library wrote the file that it lies in.

The bytes of a row, in this order; numbers are little-endian:

    14 bytes       `lineal row v1` and a line feed, so that a row is never taken for anything else that is hashed
    1 per field    1 where there is a value, 0 where it is null, in the order of the declaration
    8 per field    in that order, those that are no texts: INT64 as a signed integer, FLOAT64 as IEEE 754, BOOL as the
                   integer 0 or 1, TIMESTAMP as a signed integer of microseconds since 1970-01-01 UTC; 0 for null
    4 per text     in that order, its length in bytes, unsigned; 0 for null
    the texts      in that order, UTF-8, with nothing in between

Which fields there are says the declaration of the dataset, in the schema version that the batch names, without the
`vaulted_columns` of the batch's event: protected attributes are not hashed, so that no proof discloses them.
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lineal.api.ingest.v1.dataset_pb2 import Dataset, FieldType
from lineal.merkle import leaf_hash

_DOMAIN = b"lineal row v1\n"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What lies under a null, by type.
_NOTHING = ("", 0, 0.0, False, _EPOCH)
_FIXED = {
    FieldType.FIELD_TYPE_INT64: "<q",
    FieldType.FIELD_TYPE_FLOAT64: "<d",
    FieldType.FIELD_TYPE_BOOL: "<q",
    FieldType.FIELD_TYPE_TIMESTAMP: "<q",
}


class RowWrong(ValueError):
    """Bytes are not a row of a dataset."""


def encode(table: pa.Table) -> list[bytes]:
    """Return the bytes of each row of a table that has the columns, in order and type, of its declaration."""
    count = table.num_rows
    columns = [_whole(column) for column in table.columns]
    texts = [column for column in columns if pa.types.is_string(column.type)]
    numbers = [column for column in columns if not pa.types.is_string(column.type)]
    kinds = [("domain", f"S{len(_DOMAIN)}"), ("present", "u1", (len(columns),))]
    kinds += [("numbers", "<i8", (len(numbers),)), ("lengths", "<u4", (len(texts),))]
    matrix = np.empty(count, dtype=kinds)
    matrix["domain"] = _DOMAIN
    for n, column in enumerate(columns):
        matrix["present"][:, n] = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else 1
    for n, column in enumerate(numbers):
        matrix["numbers"][:, n] = _fixed(column)
    for n, column in enumerate(texts):
        matrix["lengths"][:, n] = pc.fill_null(pc.binary_length(column), 0).to_numpy()
    heads, width = matrix.tobytes(), matrix.itemsize
    starts = range(0, width * count, width)
    if not texts:
        return [heads[start : start + width] for start in starts]
    tails = pc.binary_join_element_wise(*texts, "", null_handling="replace", null_replacement="").cast(pa.binary())
    return [heads[start : start + width] + tail for start, tail in zip(starts, tails.to_pylist(), strict=True)]


def leaf_hashes(table: pa.Table) -> list[bytes]:
    """Return the leaf of each row in the Merkle tree of its batch."""
    return [leaf_hash(data) for data in encode(table)]


def hashed(dataset: Dataset, vaulted_columns: Iterable[str]) -> Dataset:
    """Return the declaration of what is hashed of a batch's rows: without the columns that went to the vault."""
    apart = set(vaulted_columns)
    if not apart:
        return dataset
    found = Dataset()
    found.CopyFrom(dataset)
    del found.fields[:]
    found.fields.extend(field for field in dataset.fields if field.name not in apart)
    return found


def decode(dataset: Dataset, data: bytes) -> dict[str, Any]:
    """Return a row's values by column: texts, numbers, bools, times in UTC, None for null.

    Raises RowWrong when the bytes are not the one form that a row of the dataset has.
    """
    fields = list(dataset.fields)
    if not data.startswith(_DOMAIN) or len(data) < len(_DOMAIN) + len(fields):
        raise RowWrong("does not begin as a row does")
    present = data[len(_DOMAIN) : len(_DOMAIN) + len(fields)]
    place = len(_DOMAIN) + len(fields)
    values: dict[str, Any] = {}
    try:
        for field in fields:
            if field.type in _FIXED:
                values[field.name] = _value(field.type, struct.unpack_from(_FIXED[field.type], data, place)[0])
                place += 8
        named = [field.name for field in fields if field.type not in _FIXED]
        sizes = struct.unpack_from(f"<{len(named)}I", data, place)
        place += 4 * len(named)
        for name, size in zip(named, sizes, strict=True):
            values[name] = data[place : place + size].decode("utf-8")
            place += size
    except (struct.error, ValueError, OverflowError) as error:
        raise RowWrong(f"is no row of {dataset.name}: {error}") from error
    if place != len(data):
        raise RowWrong(f"is no row of {dataset.name}: it has {len(data)} bytes, not {place}")
    for field, there in zip(fields, present, strict=True):
        if there not in (0, 1) or (not there and values[field.name] not in _NOTHING):
            raise RowWrong(f"is no row of {dataset.name}: {field.name!r} is neither a value nor null")
    return {field.name: values[field.name] if there else None for field, there in zip(fields, present, strict=True)}


def tabled(dataset: Dataset, rows: Sequence[bytes]) -> pa.Table:
    """Return the rows as a table in its declared form. Raises RowWrong."""
    kinds = {
        FieldType.FIELD_TYPE_STRING: pa.string(),
        FieldType.FIELD_TYPE_INT64: pa.int64(),
        FieldType.FIELD_TYPE_FLOAT64: pa.float64(),
        FieldType.FIELD_TYPE_BOOL: pa.bool_(),
        FieldType.FIELD_TYPE_TIMESTAMP: pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([pa.field(field.name, kinds[field.type]) for field in dataset.fields])
    return pa.Table.from_pylist([decode(dataset, data) for data in rows], schema=schema)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _fixed(column: pa.Array) -> npt.NDArray[Any]:
    if pa.types.is_floating(column.type):
        doubles: npt.NDArray[Any] = pc.fill_null(column, 0.0).to_numpy().astype("<f8", copy=False).view("<i8")
        return doubles
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    integers: npt.NDArray[Any] = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return integers


def _value(kind: int, value: Any) -> Any:
    if kind == FieldType.FIELD_TYPE_BOOL:
        return bool(value)
    if kind == FieldType.FIELD_TYPE_TIMESTAMP:
        return _EPOCH + timedelta(microseconds=value)
    return value
