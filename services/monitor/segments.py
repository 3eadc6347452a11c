"""Segments: prediction records sealed in a Parquet file, with a Merkle root over their serialised bytes."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from lineal import merkle
from lineal.api.monitor.v1.events_pb2 import SegmentSealed
from lineal.api.monitor.v1.prediction_pb2 import FeatureLookup, MirroredScore, PredictionRecord
from tabular.bundle import Bundle

_PREDICTION, _MIRRORED = 0, 1
_SCHEMA = pa.schema([("kind", pa.int8()), ("record", pa.binary())])


@dataclass(frozen=True)
class Segment:
    """Records in the order in which they are hashed: predictions first, then mirrored scores."""

    predictions: Sequence[bytes]
    mirrored: Sequence[bytes]

    @property
    def merkle_root(self) -> str:
        """RFC 6962 root over the records in order, in hex."""
        return merkle.root(self.leaf_hashes()).hex()

    def leaf_hashes(self) -> list[bytes]:
        """Return the hash of each record, in order."""
        return [merkle.leaf_hash(record) for record in [*self.predictions, *self.mirrored]]

    @property
    def bundle_digests(self) -> list[str]:
        """The bundles that answered, in order of their digests; a fallback has none."""
        return sorted({record.bundle_digest for record in self.decoded()[0]} - {""})

    def sealed(self, endpoint: str, digest: str, bundles: Mapping[str, Bundle]) -> SegmentSealed:
        """Return the event that seals a segment whose file has a digest.

        `bundles` are those that answered, by digest. What was looked up for one that is not given is told with an
        unnamed feature set.
        """
        predictions, _ = self.decoded()
        times = [record.event_time_micros for record in predictions]
        event = SegmentSealed(
            endpoint=endpoint,
            segment_digest=digest,
            merkle_root=self.merkle_root,
            predictions=len(predictions),
            leaves=len(self.predictions) + len(self.mirrored),
            bundle_digests=self.bundle_digests,
            lookups=_lookups(predictions, bundles),
        )
        event.min_event_time.FromMicroseconds(min(times))
        event.max_event_time.FromMicroseconds(max(times))
        return event

    def to_parquet(self) -> bytes:
        """Return the file; the same records give the same bytes."""
        kinds = [_PREDICTION] * len(self.predictions) + [_MIRRORED] * len(self.mirrored)
        table = pa.table([kinds, [*self.predictions, *self.mirrored]], schema=_SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> "Segment":
        """Read a file."""
        table = pq.read_table(io.BytesIO(data))
        kinds, records = table["kind"].to_pylist(), table["record"].to_pylist()
        pairs = list(zip(kinds, records, strict=True))
        return cls(
            [record for kind, record in pairs if kind == _PREDICTION],
            [record for kind, record in pairs if kind == _MIRRORED],
        )

    def decoded(self) -> tuple[list[PredictionRecord], list[MirroredScore]]:
        """Return the messages."""
        return (
            [PredictionRecord.FromString(record) for record in self.predictions],
            [MirroredScore.FromString(record) for record in self.mirrored],
        )

    def using(self, bundles: Collection[str], position: int) -> list[PredictionRecord]:
        """Return the predictions that one of some bundles answered, or that looked features up as of a log position.

        As of it or later; with neither condition, no bundles and 0, all.
        """
        predictions, _ = self.decoded()
        if not bundles and not position:
            return predictions
        return [
            record
            for record in predictions
            if record.bundle_digest in bundles or 0 < position <= record.feature_position
        ]


def _lookups(predictions: Sequence[PredictionRecord], bundles: Mapping[str, Bundle]) -> list[FeatureLookup]:
    found: dict[tuple[str, str], FeatureLookup] = {}
    for record in predictions:
        if not record.feature_position:
            continue
        bundle = bundles.get(record.bundle_digest)
        key = (bundle.feature_set, bundle.feature_set_version) if bundle else ("", "")
        first = FeatureLookup(feature_set=key[0], feature_set_version=key[1], min_position=record.feature_position)
        lookup = found.setdefault(key, first)
        lookup.predictions += 1
        lookup.min_position = min(lookup.min_position, record.feature_position)
        lookup.max_position = max(lookup.max_position, record.feature_position)
    return [found[key] for key in sorted(found)]
