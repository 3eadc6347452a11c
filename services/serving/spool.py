"""A spool on disk: records are written before they are sent, and deleted when they have arrived.

Frames lie in numbered files, each frame as length, CRC-32 and bytes. Writing reaches the operating system before
`append` returns, which survives a kill of this process. A frame that a crash cut off at the end of a file was never
answered to anyone and is passed over at the next start.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_HEADER = struct.Struct("<II")
_SUFFIX = ".spool"


class SpoolFull(OSError):
    """The spool has reached its size, or the disk is full."""


class Spool:
    """Frames in the order of their arrival: `append` at one end, `read` and `release` at the other. One thread."""

    def __init__(self, folder: Path, *, file_bytes: int = 4 << 20, max_bytes: int = 1 << 30) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._left = sorted(int(path.stem) for path in folder.glob(f"*{_SUFFIX}"))
        self._size = sum(self._path(number).stat().st_size for number in self._left)
        self._number = self._left[-1] + 1 if self._left else 1
        self._written = 0
        self._file_number = self._create(self._number)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._size

    def append(self, *frames: bytes) -> None:
        """Write frames, all or none of them. Raises SpoolFull, and then nothing of them is left."""
        data = b"".join([_HEADER.pack(len(frame), zlib.crc32(frame)) + frame for frame in frames])
        if self._size + len(data) > self._max_bytes:
            raise SpoolFull(f"the spool {self._folder} has reached {self._max_bytes >> 20} MiB")
        try:
            if self._written >= self._file_bytes:
                self._roll()
            done = os.write(self._file_number, data)
            if done < len(data):
                raise OSError(errno.ENOSPC, "the disk took a part of it only")
        except OSError as error:
            os.ftruncate(self._file_number, self._written)
            raise SpoolFull(f"cannot write to the spool {self._folder}: {error.strerror or error}") from error
        self._written += len(data)
        self._size += len(data)

    def read(self, number: int, offset: int, most_bytes: int) -> tuple[list[bytes], int, int]:
        """Return frames from a place, up to a size but one at least, and the place after them.

        Places are a file's number and an offset in it; (0, 0) is the oldest.
        """
        frames: list[bytes] = []
        size = 0
        for known in [known for known in [*self._left, self._number] if known >= number]:
            start = offset if known == number else 0
            number, offset = known, start
            for frame, end in _frames(self._path(known), start):
                size += len(frame)
                if frames and size > most_bytes:
                    return frames, number, offset
                frames.append(frame)
                offset = end
            # An older file is exhausted: the place moves on, so that it can be released.
            if known != self._number:
                number, offset = known + 1, 0
        return frames, number, offset

    def release(self, number: int) -> None:
        """Delete the files before this one."""
        for known in [known for known in self._left if known < number]:
            path = self._path(known)
            self._size -= path.stat().st_size
            path.unlink()
            self._left.remove(known)

    def close(self) -> None:
        """Close the file that is written to."""
        os.close(self._file_number)

    def _roll(self) -> None:
        # First, since a full disk may refuse it: then the file before is the one that is written to.
        created = self._create(self._number + 1)
        os.close(self._file_number)
        self._left.append(self._number)
        self._number += 1
        self._written = 0
        self._file_number = created

    def _create(self, number: int) -> int:
        return os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{_SUFFIX}"


def _frames(path: Path, start: int) -> Iterator[tuple[bytes, int]]:
    """Yield the whole frames of a file from an offset, each with the offset of its end."""
    with path.open("rb") as file:
        file.seek(start)
        # In one read, since files are small: this runs in a thread, which gives way to those who answer at each read.
        data = file.read()
    place = 0
    while place + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        frame = data[place : place + length]
        if len(frame) < length or zlib.crc32(frame) != checksum:
            return
        place += length
        yield frame, start + place
