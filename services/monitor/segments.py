"""Segments: prediction records sealed in a Parquet file, with a Merkle root over their serialised bytes."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from lineal import merkle
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

    def lookups(self, bundle_of: Callable[[str], Bundle | None]) -> list[FeatureLookup]:
        """Return which feature sets the predictions looked features up from, and as of which positions.

        `bundle_of` returns the bundle of a digest, None when it cannot be read: its feature set is then unnamed.
        """
        found: dict[tuple[str, str], FeatureLookup] = {}
        for record in self.decoded()[0]:
            if not record.feature_position:
                continue
            bundle = bundle_of(record.bundle_digest)
            key = (bundle.feature_set, bundle.feature_set_version) if bundle else ("", "")
            first = FeatureLookup(feature_set=key[0], feature_set_version=key[1], min_position=record.feature_position)
            lookup = found.setdefault(key, first)
            lookup.predictions += 1
            lookup.min_position = min(lookup.min_position, record.feature_position)
            lookup.max_position = max(lookup.max_position, record.feature_position)
        return [found[key] for key in sorted(found)]

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
