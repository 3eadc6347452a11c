"""What stands behind one prediction: its place in a sealed segment, and the manifests that lead to its raw rows."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from chassis.artifacts import ArtifactStore
from lineal import merkle
from services.monitor.projections import SEALED, SEGMENTS
from services.monitor.segments import Segment


@dataclass(frozen=True)
class Place:
    """Where a sealed prediction lies: `position` is the log's, of the event that sealed its segment."""

    record: bytes
    bundle_digest: str
    segment_digest: str
    position: int


@dataclass(frozen=True)
class Proof:
    """A prediction's path to the Merkle root of its segment."""

    place: Place
    index: int
    path: list[bytes]
    manifests: list[bytes]


def place_of(connection: Connection, prediction_id: str) -> Place | None:
    """Return where a prediction lies, None when it is not sealed."""
    table = SEALED.predictions
    query = (
        select(table.c.record, table.c.bundle_digest, table.c.segment, SEGMENTS.c.position)
        .join(SEGMENTS, SEGMENTS.c.digest == table.c.segment)
        .where(table.c.prediction_id == prediction_id)
    )
    row = connection.execute(query).first()
    return None if row is None else Place(bytes(row[0]), row[1], row[2], row[3])


def prove(artifacts: ArtifactStore, place: Place) -> Proof:
    """Return the proof of a sealed prediction. Blocking."""
    segment = Segment.from_parquet(artifacts.read(place.segment_digest))
    index = segment.predictions.index(place.record)
    leaves = segment.leaf_hashes()
    path = [merkle.root(leaves[start:end]) for start, end in merkle.inclusion_ranges(index, len(leaves))]
    return Proof(place, index, path, list(_manifests(artifacts, place.bundle_digest)))


def _manifests(artifacts: ArtifactStore, bundle_digest: str) -> Iterator[bytes]:
    if not bundle_digest:
        return  # answered by a fallback
    yield (bundle := artifacts.read(bundle_digest))
    digest = json.loads(bundle)["training_set_digest"]
    if not digest:
        return  # trained elsewhere
    yield (training_set := artifacts.read(digest))
    found: dict[str, Any] = json.loads(training_set)
    for snapshot in sorted(set(found["snapshots"].values())):
        yield artifacts.read(snapshot)
