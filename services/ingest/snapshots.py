"""What a snapshot is made of: a manifest over the Parquet files of batches, and a profile."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from google.protobuf.json_format import MessageToDict, ParseDict

from chassis.artifacts import ArtifactStore, canonical_json
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.ingest.profile import profile
from services.ingest.projections import StoredBatch
from tabular.parquet import ipc_pieces, read_all, read_parquet
from tabular.schema import arrow_schema


@dataclass(frozen=True)
class Stored:
    """A snapshot whose manifest and profile are in the artifact store."""

    digest: str
    profile_digest: str
    profile_json: str
    rows: int
    as_of_position: int
    batches: int


def store(artifacts: ArtifactStore, dataset: Dataset, schema_version: int, batches: Sequence[StoredBatch]) -> Stored:
    """Write the manifest and the profile of all rows of these batches."""
    # Up to the newest batch rather than the position asked for: the same rows are the same snapshot.
    as_of = batches[-1].position if batches else 0
    files = [_file(batch) for batch in batches if batch.accepted_rows]
    rows = sum(batch.accepted_rows for batch in batches)
    manifest = {
        "kind": "lineal.snapshot",
        "dataset": dataset.name,
        "schema_version": schema_version,
        "declaration": MessageToDict(dataset, preserving_proto_field_name=True),
        "as_of_position": as_of,
        "files": files,
        "rows": rows,
    }
    digest = artifacts.put(canonical_json(manifest))
    schema = arrow_schema(dataset)
    paths = [artifacts.path(str(file["digest"])) for file in files]

    def read(names: Sequence[str]) -> pa.Table:
        return read_all(paths, pa.schema([schema.field(name) for name in names]))

    document = canonical_json(profile(rows, schema, dataset.row_key, read))
    return Stored(digest, artifacts.put(document), document.decode(), rows, as_of, len(batches))


def _file(batch: StoredBatch) -> dict[str, Any]:
    file = {
        "batch_id": batch.batch_id,
        "digest": batch.accepted_digest,
        "position": batch.position,
        "rows": batch.accepted_rows,
    }
    # Without the root where a batch has none: snapshots from before rows were hashed keep their digests.
    return file | {"rows_root": batch.rows_root} if batch.rows_root else file


def pieces(artifacts: ArtifactStore, digest: str) -> Iterator[bytes]:
    """Yield the rows of a snapshot as pieces of an Arrow IPC stream, one file in memory at a time."""
    manifest: dict[str, Any] = json.loads(artifacts.read(digest))
    schema = arrow_schema(ParseDict(manifest["declaration"], Dataset()))
    tables = (read_parquet(artifacts.path(file["digest"]), schema) for file in manifest["files"])
    return ipc_pieces(schema, tables)
