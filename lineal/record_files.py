"""Stored records in Parquet, byte for byte, with the columns that one looks for: what sealing and backups write.

A row group holds at most 512 records or little more than 1 MiB of them, so that whoever reads holds no more than that.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from lineal.api.lineage.v1.record_pb2 import EventRecord

_GROUP_RECORDS = 512
_GROUP_BYTES = 1024 * 1024
_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("stream", pa.string()),
        ("revision", pa.int64()),
        ("type", pa.string()),
        ("recorded_time", pa.timestamp("us", tz="UTC")),
        ("record", pa.binary()),
    ]
)


class RecordFileWriter:
    """Writes records in order of position to a new file."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, _SCHEMA, compression="zstd")
        self._waiting: list[bytes] = []
        self._bytes = 0

    def __enter__(self) -> "RecordFileWriter":
        """Write within a block."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Write what waits, and the footer."""
        self._flush()
        self._writer.close()

    def add(self, record: bytes) -> None:
        """Add the next record."""
        self._waiting.append(record)
        self._bytes += len(record)
        if len(self._waiting) == _GROUP_RECORDS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        columns: list[list[object]] = [[] for _ in _SCHEMA]
        for data in self._waiting:
            record = EventRecord.FromString(data)
            micros = record.recorded_time.seconds * 1_000_000 + record.recorded_time.nanos // 1000
            row = (record.position, record.stream, record.revision, record.type, micros, data)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=_SCHEMA))
        self._waiting, self._bytes = [], 0


def write(path: Path, records: Iterable[bytes]) -> None:
    """Write records in order of position to a new file."""
    with RecordFileWriter(path) as file:
        for record in records:
            file.add(record)


def first_positions(path: Path) -> list[int]:
    """Return the position that each row group begins with."""
    metadata = pq.read_metadata(path)
    return [int(metadata.row_group(n).column(0).statistics.min) for n in range(metadata.num_row_groups)]


def group_of(firsts: list[int], position: int) -> int:
    """Return the row group that a position lies in."""
    return bisect_right(firsts, position) - 1


def read_group(path: Path, group: int) -> list[bytes]:
    """Return the records of a row group in order."""
    with pq.ParquetFile(path) as file:
        records: list[bytes] = file.read_row_group(group, columns=["record"], use_threads=False)["record"].to_pylist()
    return records


def read(path: Path) -> Iterator[bytes]:
    """Yield all records in order, a row group in memory at a time."""
    for group in range(len(first_positions(path))):
        yield from read_group(path, group)
