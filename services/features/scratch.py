"""What the steps of a build hand to each other: Arrow IPC files, content-addressed, in a store of the build's own.

Each table of a file is one record batch, so that a reader maps only what it needs.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from chassis.artifacts import ArtifactStore


def write(store: ArtifactStore, tables: Iterable[pa.Table]) -> str:
    """Store tables of one schema, at least one, and return the file's digest."""
    with tempfile.TemporaryDirectory(prefix="lineal-step-") as folder:
        path = Path(folder) / "tables.arrow"
        writer = None
        with pa.OSFile(str(path), "wb") as sink:
            for table in tables:
                if writer is None:
                    writer = pa.ipc.new_file(sink, table.schema)
                writer.write_batch(_batch(table))
            if writer is None:
                raise ValueError("a file of a build needs at least one table")
            writer.close()
        return store.put_file(path)


def read(store: ArtifactStore, digest: str, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Map one table of a file, with all columns or with those named, in the order of the file."""
    source = pa.memory_map(str(store.path(digest)), "rb")
    reader = pa.ipc.open_file(source)
    if columns is not None:
        fields = sorted(reader.schema.get_field_index(name) for name in dict.fromkeys(columns))
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
    return pa.Table.from_batches([reader.get_batch(number)])


def _batch(table: pa.Table) -> pa.RecordBatch:
    # to_batches gives none for an empty table, and the place of a table in its file says what it is.
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)
