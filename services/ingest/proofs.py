"""Paths from accepted rows to the Merkle root that their batch's event has."""

from collections.abc import Sequence

import pyarrow.parquet as pq

from chassis.artifacts import ArtifactStore
from chassis.errors import ArtifactCorrupt, FieldViolation, InvalidArgument, NotFound, RuleViolated
from lineal import merkle, rows
from lineal.api.ingest.v1.ingest_service_pb2 import ProvenRow
from services.ingest.projections import StoredBatch

MOST_ROWS = 1_000


class BatchUnknown(NotFound):
    """No batch of that name was accepted."""


class RowUnknown(NotFound):
    """A batch does not have a row of that number."""


class RowsNotHashed(RuleViolated):
    """A batch was accepted by a version that did not hash its rows."""


class TooManyRows(InvalidArgument):
    """Proofs of so many rows are not made in one call."""


def check_count(numbers: Sequence[int]) -> None:
    """Refuse a request for no rows or for too many."""
    if not 1 <= len(numbers) <= MOST_ROWS:
        raise TooManyRows(
            f"{len(numbers):,} rows are asked for",
            [FieldViolation("rows", f"name 1 to {MOST_ROWS:,} rows; ask again for the others")],
        )


def prove(artifacts: ArtifactStore, dataset: str, batch: StoredBatch, numbers: Sequence[int]) -> list[ProvenRow]:
    """Return rows with their paths, in the order asked for. Blocking.

    Raises RowUnknown, RowsNotHashed, ArtifactCorrupt.
    """
    if batch.accepted_rows and not batch.rows_root:
        raise RowsNotHashed(
            f"batch {batch.batch_id!r} of {dataset} was accepted by a version that did not hash rows one by one; "
            "its event has the digest of the whole file; `lineal prove --no-rows` proves all but the rows"
        )
    for number in numbers:
        if number >= batch.accepted_rows:
            raise RowUnknown(f"batch {batch.batch_id!r} of {dataset} has {batch.accepted_rows} accepted rows, from 0")
    with artifacts.open(batch.accepted_digest) as file, pq.ParquetFile(file) as parquet:
        encoded = rows.encode(parquet.read())
    tree = merkle.levels([merkle.leaf_hash(data) for data in encoded])
    if tree[-1][0].hex() != batch.rows_root:
        raise ArtifactCorrupt(f"the rows of batch {batch.batch_id!r} of {dataset} do not lead to the root in its event")
    return [ProvenRow(row=number, data=encoded[number], path=merkle.path(tree, number)) for number in numbers]
