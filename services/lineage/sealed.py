"""Reads the records of sealed ranges, which lie in Parquet files among the artifacts. Blocking; any thread."""

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from sqlalchemy import Engine, select

from chassis.artifacts import ArtifactStore
from chassis.errors import ArtifactCorrupt, NotFound
from lineal import merkle, record_files
from services.lineage.tables import SealedRange, Stored, sealed_ranges

# Each is at most a little more than 1 MiB; readers that replay go through one after the other.
_CACHED_GROUPS = 16
_CACHED_FILES = 1024
T = TypeVar("T")


class SealedRecords:
    """The records that are no longer in the database."""

    def __init__(self, reader: Engine, artifacts: ArtifactStore | None) -> None:
        self._reader = reader
        self._artifacts = artifacts
        self._ranges: list[SealedRange] = []
        self._firsts = lru_cache(_CACHED_FILES)(self._read_firsts)
        self._group = lru_cache(_CACHED_GROUPS)(self._read_group)

    def ranges(self) -> list[SealedRange]:
        """Return all sealed ranges in order."""
        columns = [sealed_ranges.c[name] for name in SealedRange._fields]
        with self._reader.begin() as connection:
            rows = connection.execute(select(*columns).order_by(sealed_ranges.c.first))
            self._ranges = [SealedRange(*row)._replace(merkle_root=bytes(row.merkle_root)) for row in rows]
        return self._ranges

    def filled(self, stored: Stored) -> Stored:
        """Return a row with its record, whichever place that is in, as `whole` does."""
        if stored.record:
            return stored
        return stored._replace(record=self.whole(stored.position, stored.record, stored.leaf_hash))

    def whole(self, position: int, record: bytes, leaf_hash: bytes) -> bytes:
        """Return the record of a row, which has an empty one when it is sealed.

        Raises ArtifactCorrupt when the file is not there any more or is not what was sealed.
        """
        if record:
            return record
        record = self.record(position)
        if merkle.leaf_hash(record) != leaf_hash:
            raise ArtifactCorrupt(
                f"the sealed event at position {position} was changed: restore its file or the log from a backup"
            )
        return record

    def record(self, position: int) -> bytes:
        """Return the bytes of a sealed record, as the file has them."""
        found = self._range(position)
        firsts = self._opened(found, self._firsts, found.digest)
        group = record_files.group_of(firsts, position)
        return self._opened(found, self._group, found.digest, group)[position - firsts[group]]

    def _range(self, position: int) -> SealedRange:
        for ranges in (self._ranges, None):
            known = self.ranges() if ranges is None else ranges
            place = bisect_left(known, position, key=lambda each: each.last)
            if place < len(known) and known[place].first <= position:
                return known[place]
        raise ArtifactCorrupt(f"the event at position {position} has no record and is in no sealed range")

    def _opened(self, found: SealedRange, read: Callable[..., T], *arguments: object) -> T:
        try:
            return read(*arguments)
        except (NotFound, ArtifactCorrupt, OSError, IndexError, ValueError) as error:
            raise ArtifactCorrupt(f"the sealed events {found.first} to {found.last} cannot be read: {error}") from error

    def _read_firsts(self, digest: str) -> list[int]:
        return record_files.first_positions(self._store().path(digest))

    def _read_group(self, digest: str, group: int) -> list[bytes]:
        return record_files.read_group(self._store().path(digest), group)

    def _store(self) -> ArtifactStore:
        if self._artifacts is None:
            raise ArtifactCorrupt("old events are sealed in artifacts, and no artifact store is given")
        return self._artifacts
