"""What the steps of a build hand to each other: Arrow IPC files in a folder of the build's own.

Each table of a file is one record batch, so that a reader maps only what it needs. A file is named by its SHA-256 once
it is whole, so a worker that ends leaves none that is torn. It need not outlive the machine: nothing is synced or read
back. What a machine's end takes is found when a build is gone on with, and made again.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import pyarrow as pa

from chassis.artifacts import FsspecArtifactStore
from chassis.errors import LinealError


class Scratch:
    """The folder, or the place in an object store, of one build."""

    def __init__(self, root: str, cache: Path) -> None:
        """`cache` is where copies of remote files go."""
        self._remote = FsspecArtifactStore(root, cache) if "://" in root else None
        self._folder = cache if self._remote else Path(root)

    def write(self, tables: Iterable[pa.Table]) -> str:
        """Store tables of one schema, at least one, and return the file's name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            temporary = Path(file.name)
            try:
                sink = _Hashing(file.file)
                writer = None
                for table in tables:
                    if writer is None:
                        writer = pa.ipc.new_file(pa.PythonFile(sink, "w"), table.schema)
                    writer.write_batch(_batch(table))
                if writer is None:
                    raise ValueError("a file of a build needs at least one table")
                writer.close()
                file.close()
                if self._remote:
                    return self._remote.put_file(temporary)
                # Workers may be of several users.
                temporary.chmod(0o644)
                temporary.rename(self._folder / sink.digest)
                return sink.digest
            finally:
                temporary.unlink(missing_ok=True)

    def read(self, name: str, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Map one table of a file, with all columns or with those named, in the order of the file."""
        source = pa.memory_map(str(self._remote.path(name) if self._remote else self._folder / name), "rb")
        reader = pa.ipc.open_file(source)
        if columns is not None:
            fields = sorted(reader.schema.get_field_index(name) for name in dict.fromkeys(columns))
            reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
        return pa.Table.from_batches([reader.get_batch(number)])

    def remove(self, name: str) -> None:
        """Remove a file that nobody reads any more; where files are elsewhere they stay until the build ends."""
        if self._remote is None:
            (self._folder / name).unlink(missing_ok=True)

    def whole(self, name: str) -> bool:
        """Tell whether a file is there with the bytes that were written. Reads it."""
        with suppress(LinealError, FileNotFoundError):
            if self._remote:
                return self._remote.verify(name) > 0
            with (self._folder / name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == name
        return False


class _Hashing:
    """A file that knows the SHA-256 of what was written to it."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _batch(table: pa.Table) -> pa.RecordBatch:
    # to_batches gives none for an empty table, and the place of a table in its file says what it is.
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)
