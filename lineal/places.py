"""Where a backup lies: a folder, or an fsspec URL when fsspec is installed. Files appear whole or not at all."""

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lineal.errors import LinealError


class Place(Protocol):
    """Files by name, as in `records/1.parquet`. Blocking."""

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None when it is not there."""
        ...

    def write(self, name: str, source: Path) -> None:
        """Store a file under a name, in the place of what is there."""
        ...

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is not there."""
        ...

    def local(self, name: str) -> Any:
        """Return a context manager of a local path to read a file from; FileNotFoundError when it is not there."""
        ...


def place_at(where: str) -> Place:
    """Return the place at a folder or an fsspec URL."""
    return UrlPlace(where) if "://" in where else FolderPlace(Path(where))


class FolderPlace:
    """A folder; what is written is synced to its disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None when it is not there."""
        path = self._root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, source: Path) -> None:
        """Store a file under a name."""
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.tmp")
        with source.open("rb") as data, temporary.open("wb") as file:
            while chunk := data.read(1024 * 1024):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is not there."""
        path = self._root / name
        return path.stat().st_size if path.is_file() else None

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield the file itself."""
        path = self._root / name
        if not path.is_file():
            raise FileNotFoundError(path)
        yield path


class UrlPlace:
    """An object store, through fsspec."""

    def __init__(self, url: str) -> None:
        try:
            fsspec = importlib.import_module("fsspec")
        except ImportError:
            raise LinealError(f"{url} needs fsspec: pip install fsspec, and the package of that store") from None
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None when it is not there."""
        try:
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, source: Path) -> None:
        """Store a file under a name."""
        target = f"{self._root}/{name}"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(source), target)

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is not there."""
        try:
            return int(self._files.size(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield a copy of the file."""
        with tempfile.TemporaryDirectory(prefix="lineal-backup-") as folder:
            path = Path(folder) / "file"
            self._files.get_file(f"{self._root}/{name}", str(path))
            yield path
