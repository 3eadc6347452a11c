"""Artifacts in memory, for unit tests. They keep the same contract suite as the real stores."""

import io
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from chassis.artifacts import StoredArtifact, checked_digest, compare_digests, digest_of, not_found
from chassis.leftovers import Leftover


class InMemoryArtifactStore:
    """Artifacts in memory, for unit tests; `path` writes them to a folder of its own."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}
        self._times: dict[str, datetime] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="lineal-artifacts-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def put(self, data: bytes) -> str:
        """Store bytes and return their digest."""
        digest = digest_of(data)
        self._data[digest] = bytes(data)
        self.touch(digest)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes and return their digest."""
        return self.put(path.read_bytes())

    def open(self, digest: str) -> BinaryIO:
        """Return an artifact as a file to read from."""
        return io.BytesIO(self.read(digest))

    def read(self, digest: str) -> bytes:
        """Return the bytes of an artifact."""
        try:
            data = self._data[checked_digest(digest)]
        except KeyError:
            raise not_found(digest, "memory") from None
        compare_digests(digest, digest_of(data), "memory")
        return data

    def path(self, digest: str) -> Path:
        """Return a local copy."""
        file = self._folder / checked_digest(digest)
        file.write_bytes(self.read(digest))
        return file

    def exists(self, digest: str) -> bool:
        """Tell whether an artifact is there."""
        return checked_digest(digest) in self._data

    def verify(self, digest: str) -> int:
        """Read the stored bytes themselves and return how many they are."""
        return len(self.read(digest))

    def touch(self, digest: str) -> bool:
        """Make an artifact as young as one that was just put; False when it is not there."""
        if there := self.exists(digest):
            self._times[digest] = datetime.now(UTC)
        return there

    def listed(self) -> Iterator[StoredArtifact]:
        """List all artifacts, unverified."""
        return (StoredArtifact(digest, len(data), self._times[digest]) for digest, data in list(self._data.items()))

    def remove(self, digest: str, before: datetime) -> bool:
        """Remove an artifact unless it was put or touched since a time; return whether it was."""
        if not self.exists(digest) or self._times[digest] >= before:
            return False
        del self._data[digest], self._times[digest]
        return True

    def leftovers(self, before: datetime, *, delete: bool) -> Iterator[Leftover]:  # noqa: ARG002 - there are none
        """Yield nothing: nobody writes here in two steps."""
        yield from ()
