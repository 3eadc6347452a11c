"""A batch: bytes in, validated tables and the event that says so out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from chassis.errors import AlreadyExists, FieldViolation, InvalidArgument
from lineal import merkle
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from lineal.rows import leaf_hashes
from services.ingest.pseudonyms import Pseudonyms, identifiers
from services.ingest.quarantine import RESERVED
from services.ingest.surroundings import Surroundings
from services.ingest.validation import REASONS, Validator
from services.ingest.vault import take_off
from tabular.parquet import to_parquet
from tabular.schema import SchemaMismatch, normalise, protected

_MOST_ID = 200


class BatchIdInvalid(InvalidArgument):
    """A batch has no name, or too long a one."""


class BatchUnreadable(InvalidArgument):
    """The bytes of a batch are no Arrow IPC stream."""


class BatchColumnsWrong(InvalidArgument):
    """The columns of a batch are not those that its dataset declares."""


class BatchExists(AlreadyExists):
    """A batch of that id was accepted with other content."""


@dataclass(frozen=True)
class Examined:
    """A batch after validation, before it is stored; the Parquet bytes are empty where there are no rows.

    `vaulted` has accepted and quarantined rows with their protected attributes, None where there are none to keep.
    """

    declared: Dataset
    event: BatchAccepted
    accepted: bytes
    quarantined: bytes
    reasons: list[str]
    vaulted: tuple[pa.Table, pa.Table] | None


def check_id(batch_id: str) -> None:
    """Refuse a batch without a usable name."""
    if batch_id.startswith(RESERVED):
        raise BatchIdInvalid(
            f"batch ids that begin with {RESERVED!r} are those of rows that come out of quarantine",
            [FieldViolation("batch_id", "give the batch another name")],
        )
    if not 1 <= len(batch_id) <= _MOST_ID:
        raise BatchIdInvalid(
            f"a batch id has 1 to {_MOST_ID} characters, this one {len(batch_id)}",
            [FieldViolation("batch_id", "give each batch a name of its own, the same one when you send it again")],
        )


def content_digest(data: bytes) -> str:
    """Return the digest of a batch as it was sent."""
    return hashlib.sha256(data).hexdigest()


def check_same(dataset: str, batch_id: str, accepted_digest: str, sent_digests: Sequence[str]) -> None:
    """Refuse a batch whose id was taken by other content."""
    if accepted_digest not in sent_digests:
        raise BatchExists(
            f"batch {batch_id!r} of dataset {dataset!r} was accepted with other content (sha256 {accepted_digest}, now "
            f"{sent_digests[0]}); send new rows under a new batch id"
        )


def examine(
    dataset: Dataset,
    schema_version: int,
    validator: Validator,
    batch_id: str,
    data: bytes,
    around: Surroundings,
    pseudonyms: Pseudonyms,
) -> Examined:
    """Validate a batch. Raises BatchUnreadable and BatchColumnsWrong."""
    try:
        table, unreadable = normalise(read(batch_id, data), dataset)
    except SchemaMismatch as error:
        raise BatchColumnsWrong(
            f"batch {batch_id!r} does not have the columns of dataset {dataset.name!r}: {error}",
            [FieldViolation(f"arrow.{v.field}", v.description) for v in error.violations],
        ) from None
    parted = validator.validate(table, unreadable, around)
    # Rules hold for what was sent; nothing but pseudonyms is kept, and no protected attribute, in quarantine neither.
    direct, vaulted = identifiers(dataset), protected(dataset)
    kept, refused = (take_off(dataset, pseudonyms.hide(rows, direct)) for rows in (parted.accepted, parted.quarantined))
    accepted = to_parquet(kept) if parted.accepted.num_rows else b""
    quarantined = to_parquet(refused) if parted.quarantined.num_rows else b""
    digest = pseudonyms.digest(data) if direct or vaulted else content_digest(data)
    event = accepted_event(dataset, schema_version, batch_id, kept, accepted, digest)
    event.quarantined_rows = parted.quarantined.num_rows
    event.quarantine_digest = hashlib.sha256(quarantined).hexdigest() if quarantined else ""
    event.warned_rows = parted.warned_rows
    event.findings.extend(parted.findings)
    event.reference_snapshot_digest = around.snapshot_digest
    apart = (parted.accepted, parted.quarantined) if vaulted else None
    return Examined(dataset, event, accepted, quarantined, parted.quarantined[REASONS].to_pylist(), apart)


def accepted_event(
    dataset: Dataset, schema_version: int, batch_id: str, accepted: pa.Table, parquet: bytes, digest: str
) -> BatchAccepted:
    """Return the event of accepted rows, whose Parquet bytes are empty where there are none."""
    event = BatchAccepted(
        dataset=dataset.name,
        batch_id=batch_id,
        schema_version=schema_version,
        content_digest=digest,
        accepted_rows=accepted.num_rows,
        accepted_digest=hashlib.sha256(parquet).hexdigest() if parquet else "",
        rows_root=merkle.root(leaf_hashes(accepted)).hex() if parquet else "",
        vaulted_columns=protected(dataset),
    )
    _set_times(event, dataset, accepted)
    return event


def read(batch_id: str, data: bytes) -> pa.Table:
    """Return the rows of an Arrow IPC stream. Raises BatchUnreadable."""
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
        # The bytes come from outside: offsets that point elsewhere must be found before anything follows them.
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BatchUnreadable(
            f"batch {batch_id!r} is no Arrow IPC stream: {error}",
            [FieldViolation("arrow", "send record batches as an Arrow IPC stream, for example of pa.ipc.new_stream")],
        ) from None
    return table


def _set_times(event: BatchAccepted, dataset: Dataset, accepted: pa.Table) -> None:
    if not dataset.event_time or not accepted.num_rows:
        return
    ends = pc.min_max(accepted[dataset.event_time]).as_py()
    event.min_event_time.FromDatetime(ends["min"])
    event.max_event_time.FromDatetime(ends["max"])
    newest: datetime = pc.max(accepted[dataset.available_time or dataset.event_time]).as_py()
    # A row is never available before it happened.
    event.max_available_time.FromDatetime(max(newest, ends["max"]))
