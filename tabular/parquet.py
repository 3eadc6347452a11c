"""Write and read tables: the same rows always make the same Parquet bytes."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PIECE_BYTES = 1024 * 1024


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as Parquet, compressed with zstd."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd", version="2.6")
    return sink.getvalue()


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """Read the columns of `schema` from a file; those that an older file does not have yet are null."""
    # ParquetFile, not read_table: no data set discovery, which costs more than reading a small file.
    with pq.ParquetFile(path) as file:
        there = [name for name in schema.names if name in file.schema_arrow.names]
        table = file.read(columns=there, use_threads=False)
    return conform(table, schema)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with exactly the columns of a schema, missing ones null."""
    arrays = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def read_all(paths: Sequence[Path], schema: pa.Schema) -> pa.Table:
    """Read and join files in order."""
    if not paths:
        return schema.empty_table()
    return pa.concat_tables([read_parquet(path, schema) for path in paths]).combine_chunks()


def ipc_pieces(schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[bytes]:
    """Yield the bytes of one Arrow IPC stream of all tables, in pieces of at most 1 MiB."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)
            yield from _taken(sink)
    yield from _taken(sink)


def _taken(sink: io.BytesIO) -> Iterator[bytes]:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
