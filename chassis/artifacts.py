"""Content-addressed bytes: an artifact's name is the SHA-256 of what is in it.

The local store writes as reference A.3 of the reliability notes asks: temporary file in the same directory, fsync, read
back and compare the digest, rename, fsync the directory. So a name is either absent or right, whatever is pulled out.
"""

import fcntl
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import fsspec

from chassis.errors import ArtifactCorrupt, FieldViolation, InvalidArgument, NotFound, RuleViolated
from chassis.leftovers import PUT, Leftover, leftovers

_CHUNK = 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactNotFound(NotFound):
    """No artifact has this digest."""


class DigestInvalid(InvalidArgument):
    """A name is not a SHA-256 in lowercase hex."""


class CannotCollect(RuleViolated):
    """A store cannot compare an artifact's age and remove it in one step."""


@dataclass(frozen=True)
class StoredArtifact:
    """What a store tells of an artifact without reading it; the time is when it was last put or touched."""

    digest: str
    size: int
    time: datetime


class ArtifactStore(Protocol):
    """Where artifacts lie. Methods block; call them in a thread from asynchronous code."""

    def put(self, data: bytes) -> str:
        """Store bytes and return their digest; they are durable when this returns."""
        ...

    def put_file(self, path: Path) -> str:
        """Store a file's bytes and return their digest."""
        ...

    def open(self, digest: str) -> BinaryIO:
        """Return a verified artifact as a file to read from."""
        ...

    def read(self, digest: str) -> bytes:
        """Return the verified bytes of an artifact.

        Raises ArtifactNotFound, or ArtifactCorrupt when the bytes are not those that the digest names.
        """
        ...

    def path(self, digest: str) -> Path:
        """Return a local, verified copy."""
        ...

    def exists(self, digest: str) -> bool:
        """Tell whether an artifact is there, unverified."""
        ...

    def verify(self, digest: str) -> int:
        """Read the stored bytes themselves, past any cache, and return how many they are.

        Raises ArtifactNotFound or ArtifactCorrupt.
        """
        ...

    def touch(self, digest: str) -> bool:
        """Make an artifact as young as one that was just put; False when it is not there.

        Whoever has an event name an artifact without putting it touches it first, or it may be collected before.
        """
        ...

    def listed(self) -> Iterator[StoredArtifact]:
        """List all artifacts, unverified. Raises CannotCollect."""
        ...

    def remove(self, digest: str, before: datetime) -> bool:
        """Remove an artifact unless it was put or touched since a time; return whether it was. Raises CannotCollect."""
        ...

    def leftovers(self, before: datetime, *, delete: bool) -> Iterator[Leftover]:
        """List what writers that ended in the middle last wrote before a time, and delete it when asked to.

        Raises CannotCollect.
        """
        ...


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys, no white space and in UTF-8; NaN and infinities are refused with ValueError."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of bytes in lowercase hex."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in lowercase hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artifact_store(root: str, cache: Path) -> "LocalArtifactStore | FsspecArtifactStore":
    """Return the store at a folder or at an fsspec URL; `cache` is where copies of remote artifacts go."""
    if "://" in root:
        return FsspecArtifactStore(root, cache)
    return LocalArtifactStore(Path(root))


def checked_digest(digest: str) -> str:
    """Return an artifact's name; it comes from callers and becomes a file's name. Raises DigestInvalid."""
    if not _DIGEST.fullmatch(digest):
        raise DigestInvalid(
            f"{digest[:80]!r} is not an artifact's name",
            [FieldViolation("digest", "must be a SHA-256 as 64 lowercase hex digits")],
        )
    return digest


def not_found(digest: str, where: str) -> ArtifactNotFound:
    """Return the error of an artifact that is not in a store."""
    return ArtifactNotFound(f"no artifact {digest} in {where}; is LINEAL_ARTIFACTS_URL the same for all services?")


def compare_digests(digest: str, found: str, where: str) -> None:
    """Raise ArtifactCorrupt when the bytes in a store have another digest than their name."""
    if found != digest:
        raise ArtifactCorrupt(f"artifact {digest} in {where} has bytes of digest {found}; restore it from a backup")


class LocalArtifactStore:
    """Artifacts in a folder, two levels deep: `ab/abcd...`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verified: dict[str, tuple[int, int]] = {}

    def put(self, data: bytes) -> str:
        """Store bytes and return their digest."""
        return self._place(io.BytesIO(data), digest_of(data))

    def put_file(self, path: Path) -> str:
        """Store a file's bytes and return their digest."""
        with path.open("rb") as source:
            return self._place(source, digest_of_file(path))

    def open(self, digest: str) -> BinaryIO:
        """Return a verified artifact as a file to read from."""
        return self.path(digest).open("rb")

    def read(self, digest: str) -> bytes:
        """Return the verified bytes of an artifact."""
        try:
            data = self._file(digest).read_bytes()
        except FileNotFoundError:
            raise not_found(digest, str(self._root)) from None
        compare_digests(digest, digest_of(data), str(self._root))
        return data

    def path(self, digest: str) -> Path:
        """Return the artifact's own file, verified once per change of the file."""
        file = self._file(digest)
        try:
            stat = file.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            if self._verified.get(digest) != seen:
                compare_digests(digest, digest_of_file(file), str(self._root))
                self._verified[digest] = seen
        except FileNotFoundError:
            raise not_found(digest, str(self._root)) from None
        return file

    def exists(self, digest: str) -> bool:
        """Tell whether an artifact is there, unverified."""
        return self._file(digest).is_file()

    def verify(self, digest: str) -> int:
        """Read the stored bytes themselves and return how many they are."""
        file = self._file(digest)
        try:
            compare_digests(digest, digest_of_file(file), str(self._root))
            return file.stat().st_size
        except FileNotFoundError:
            raise not_found(digest, str(self._root)) from None

    def touch(self, digest: str) -> bool:
        """Make an artifact as young as one that was just put; False when it is not there or is somebody else's."""
        file = self._file(digest)
        try:
            with file.open("rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_SH)
                os.utime(file)  # by its name, which is gone when it was removed before the lock was granted
        except (FileNotFoundError, PermissionError):
            return False
        return True

    def listed(self) -> Iterator[StoredArtifact]:
        """List all artifacts, unverified."""
        for file in self._root.glob("??/*"):
            if _DIGEST.fullmatch(file.name) and file.parent.name == file.name[:2]:
                try:
                    stat = file.stat()
                except FileNotFoundError:
                    continue
                yield StoredArtifact(file.name, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def remove(self, digest: str, before: datetime) -> bool:
        """Remove an artifact unless it was put or touched since a time; return whether it was."""
        file = self._file(digest)
        try:
            # To write, because NFS locks for one alone only then.
            with file.open("rb+") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX)
                if file.stat().st_mtime >= before.timestamp():
                    return False
                file.unlink()
        except FileNotFoundError:
            return False
        self._verified.pop(digest, None)
        return True

    def leftovers(self, before: datetime, *, delete: bool) -> Iterator[Leftover]:
        """List what writers that ended in the middle last wrote before a time, and delete it when asked to."""
        return leftovers(self._root, before, delete=delete)

    def _file(self, digest: str) -> Path:
        return self._root / checked_digest(digest)[:2] / digest

    def _place(self, source: BinaryIO, digest: str) -> str:
        target = self._file(digest)
        if self.touch(digest) and digest_of_file(target) == digest:
            return digest
        new_folder = not target.parent.is_dir()
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PUT, dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                while chunk := source.read(_CHUNK):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            compare_digests(digest, digest_of_file(temporary), str(temporary))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        if new_folder:
            _sync_folder(self._root)
        return digest


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FsspecArtifactStore:
    """Artifacts in an object store, by an fsspec URL such as `s3://bucket/prefix`; copies are kept in a local cache."""

    def __init__(self, url: str, cache: Path, **options: Any) -> None:
        self._url = url
        self._fs, root = fsspec.core.url_to_fs(url, **options)
        self._root = str(root).rstrip("/")
        self._cache = LocalArtifactStore(cache)

    def put(self, data: bytes) -> str:
        """Store bytes and return their digest."""
        digest = digest_of(data)
        if not self._has(digest):
            self._make_folder(digest)
            self._fs.pipe_file(self._key(digest), data)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes and return their digest."""
        digest = digest_of_file(path)
        if not self._has(digest):
            self._make_folder(digest)
            self._fs.put_file(str(path), self._key(digest))
        return digest

    def open(self, digest: str) -> BinaryIO:
        """Return a verified artifact as a file to read from."""
        return self.path(digest).open("rb")

    def read(self, digest: str) -> bytes:
        """Return the verified bytes of an artifact."""
        return self.path(digest).read_bytes()

    def path(self, digest: str) -> Path:
        """Return a local, verified copy, fetched when it is not there yet."""
        if not self._cache.exists(digest):
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / "artifact"
                try:
                    self._fs.get_file(self._key(digest), str(copy))
                except FileNotFoundError:
                    raise not_found(digest, self._url) from None
                compare_digests(digest, digest_of_file(copy), self._url)
                self._cache.put_file(copy)
        return self._cache.path(digest)

    def exists(self, digest: str) -> bool:
        """Tell whether an artifact is there, unverified."""
        return bool(self._fs.exists(self._key(digest)))

    def verify(self, digest: str) -> int:
        """Read the stored bytes themselves and return how many they are."""
        try:
            with self._fs.open(self._key(digest), "rb") as file:
                compare_digests(digest, hashlib.file_digest(file, "sha256").hexdigest(), self._url)
                return int(file.seek(0, io.SEEK_END))
        except FileNotFoundError:
            raise not_found(digest, self._url) from None

    def touch(self, digest: str) -> bool:
        """Tell whether an artifact is there; nothing is ever removed from here, however old it is."""
        return self.exists(digest)

    def listed(self) -> Iterator[StoredArtifact]:
        """Raise CannotCollect."""
        raise self._cannot_collect("artifacts")

    def remove(self, digest: str, before: datetime) -> bool:
        """Raise CannotCollect."""
        raise self._cannot_collect(f"artifact {digest}, stored before {before},")

    def leftovers(self, before: datetime, *, delete: bool) -> Iterator[Leftover]:  # noqa: ARG002 - nor is it listed
        """Raise CannotCollect."""
        raise self._cannot_collect(f"what was left before {before}")

    def _cannot_collect(self, what: str) -> CannotCollect:
        return CannotCollect(
            f"{what} at {self._url} cannot be collected: an object store does not compare an age and remove in one "
            "step, so what is stored again in that moment would be lost"
        )

    def _key(self, digest: str) -> str:
        return f"{self._root}/{checked_digest(digest)[:2]}/{digest}"

    def _has(self, digest: str) -> bool:
        # An upload that was cut short must not stand for the artifact, so its bytes are compared, not only its name.
        try:
            with self._fs.open(self._key(digest), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == digest
        except FileNotFoundError:
            return False

    def _make_folder(self, digest: str) -> None:
        self._fs.makedirs(f"{self._root}/{digest[:2]}", exist_ok=True)
