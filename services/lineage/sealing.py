"""Seals old events: their records go to Parquet files among the artifacts, the rest of their rows stays.

What stays are position, stream, revision, event id, type, recorded time and leaf hash, so that requests that are sent
again, expected revisions, filters and proofs are answered as before. A file is written, read back and compared with the
leaf hashes, record by record, before one transaction takes the records out of the database: whenever the process ends,
each record is in the database, in a verified file, or in both.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from chassis.artifacts import ArtifactStore
from chassis.clock import Clock
from chassis.errors import ArtifactCorrupt, RuleViolated
from chassis.records import to_timestamp
from lineal import merkle, record_files
from services.lineage.store import EventStore
from services.lineage.tables import SealedRange
from services.lineage.writer import Writer

# A range ends at a multiple of this, so that each full one is a subtree of the log's Merkle tree.
RANGE_EVENTS = 4096
_RANGE_BYTES = 128 * 1024 * 1024
_PAGE = 1000


class BeyondLog(RuleViolated):
    """Events are to be sealed that the log does not have."""


class Sealer:
    """Seals one range after the other."""

    def __init__(self, store: EventStore, writer: Writer, artifacts: ArtifactStore, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._artifacts = artifacts
        self._clock = clock
        self._one = asyncio.Lock()

    async def seal(self, until: int) -> AsyncGenerator[SealedRange, None]:
        """Seal all events up to a position that are not sealed yet; yield each range once it is.

        Raises BeyondLog, and ArtifactCorrupt when an event is not what was hashed: then it stays where it is.
        """
        if until > self._writer.head:
            raise BeyondLog(f"the log has {self._writer.head} events, {until} are to be sealed")
        async with self._one:
            ranges = await asyncio.to_thread(self._store.sealed.ranges)
            last = ranges[-1].last if ranges else 0
            while last < until:
                sealed = await asyncio.to_thread(self._written, last + 1, until)
                await self._writer.seal(sealed)
                last = sealed.last
                yield sealed

    def _written(self, first: int, until: int) -> SealedRange:
        stamp = to_timestamp(self._clock.now())
        return write_range(self._store, self._artifacts, first, until, stamp.seconds * 1_000_000 + stamp.nanos // 1000)


def write_range(store: EventStore, artifacts: ArtifactStore, first: int, until: int, sealed_micros: int) -> SealedRange:
    """Write a file of the next events up to a position at most, and read it back. Blocking."""
    until = min(until, (first - 1) // RANGE_EVENTS * RANGE_EVENTS + RANGE_EVENTS)
    tree = merkle.Growing()
    size = 0
    with tempfile.TemporaryDirectory(prefix="lineal-sealing-") as folder:
        path = Path(folder) / "records.parquet"
        with record_files.RecordFileWriter(path) as file:
            while first + tree.size <= until and size < _RANGE_BYTES:
                after = first + tree.size - 1
                for row in store.rows(after, min(_PAGE, until - after)):
                    _check(row.record, row.leaf_hash, row.position)
                    file.add(row.record)
                    tree.add(row.leaf_hash)
                    size += len(row.record)
        digest = artifacts.put_file(path)
    last = first + tree.size - 1
    _read_back(store, artifacts, digest, first, last)
    return SealedRange(first, last, digest, tree.root(), size, sealed_micros)


def _read_back(store: EventStore, artifacts: ArtifactStore, digest: str, first: int, last: int) -> None:
    artifacts.verify(digest)
    position = first - 1
    hashes: list[bytes] = []
    for record in record_files.read(artifacts.path(digest)):
        if not hashes:
            hashes = store.leaf_hashes(position, min(position + _PAGE, last))[::-1]
        position += 1
        _check(record, hashes.pop(), position)
    if position != last:
        raise ArtifactCorrupt(f"the file {digest} ends at position {position}, not {last}; nothing was sealed")


def _check(record: bytes, leaf: bytes, position: int) -> None:
    if merkle.leaf_hash(record) != leaf:
        raise ArtifactCorrupt(
            f"the event at position {position} was changed: its bytes do not have its leaf hash, so it is not sealed; "
            "`lineal doctor --verify` says more"
        )
