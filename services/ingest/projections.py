"""Read tables of ingest: datasets, batches, snapshots."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    insert,
    select,
    update,
)

from chassis.databases import UtcDateTime
from chassis.events import Event
from chassis.paging import last_key, last_position, page_size, page_token
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import (
    BatchAccepted,
    DatasetRegistered,
    DatasetRetired,
    QuarantinedRowsDiscarded,
    QuarantinedRowsFixed,
    QuarantinedRowsReleased,
    SnapshotCreated,
)
from lineal.api.ingest.v1.ingest_service_pb2 import Batch, DatasetVersion, GetDatasetResponse, Snapshot
from lineal.api.ingest.v1.rules_pb2 import RuleFinding

_metadata = MetaData()
_datasets = Table(
    "datasets",
    _metadata,
    Column("name", String, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("accepted_rows", BigInteger, nullable=False),
    Column("quarantined_rows", BigInteger, nullable=False),
    Column("discarded_rows", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("retired", Boolean, nullable=False),
)
_batches = Table(
    "batches",
    _metadata,
    Column("dataset", String, primary_key=True),
    Column("batch_id", String, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("content_digest", String, nullable=False),
    Column("accepted_rows", BigInteger, nullable=False),
    Column("accepted_digest", String, nullable=False),
    Column("quarantined_rows", BigInteger, nullable=False),
    Column("quarantine_digest", String, nullable=False),
    Column("warned_rows", BigInteger, nullable=False),
    # The findings of the event alone.
    Column("findings", LargeBinary, nullable=False),
    # Quarantined rows that are not settled.
    Column("open_rows", BigInteger, nullable=False),
    Column("accept_time", UtcDateTime, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("rows_root", String, nullable=False),
    Index("batches_in_order", "dataset", "position"),
)
_declarations = Table(
    "declarations",
    _metadata,
    Column("dataset", String, primary_key=True),
    Column("schema_version", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("declare_time", UtcDateTime, nullable=False),
    Column("actor", String, nullable=False),
)
_settled = Table(
    "settled",
    _metadata,
    Column("dataset", String, primary_key=True),
    Column("batch_id", String, primary_key=True),
    Column("row", BigInteger, primary_key=True, autoincrement=False),
)
_snapshots = Table(
    "snapshots",
    _metadata,
    Column("digest", String, primary_key=True),
    Column("dataset", String, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("as_of_position", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("batches", Integer, nullable=False),
    Column("profile_digest", String, nullable=False),
    Index("snapshots_in_order", "dataset", "position"),
)


class IngestTables:
    """The projection behind ingest's reads."""

    name = "ingest"
    version = 5
    metadata = _metadata
    types: Sequence[type[Message]] = (
        DatasetRegistered,
        DatasetRetired,
        BatchAccepted,
        QuarantinedRowsFixed,
        QuarantinedRowsReleased,
        QuarantinedRowsDiscarded,
        SnapshotCreated,
    )

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event."""
        match event.message:
            case DatasetRegistered() as registered:
                _declare(connection, registered, event)
            case DatasetRetired(dataset=name):
                connection.execute(update(_datasets).where(_datasets.c.name == name).values(retired=True))
            case BatchAccepted() as batch:
                connection.execute(
                    insert(_batches).values(
                        dataset=batch.dataset,
                        batch_id=batch.batch_id,
                        position=event.position,
                        content_digest=batch.content_digest,
                        accepted_rows=batch.accepted_rows,
                        accepted_digest=batch.accepted_digest,
                        quarantined_rows=batch.quarantined_rows,
                        quarantine_digest=batch.quarantine_digest,
                        warned_rows=batch.warned_rows,
                        findings=BatchAccepted(findings=batch.findings).SerializeToString(deterministic=True),
                        open_rows=batch.quarantined_rows,
                        accept_time=event.recorded_time,
                        schema_version=batch.schema_version,
                        rows_root=batch.rows_root,
                    )
                )
                connection.execute(
                    update(_datasets)
                    .where(_datasets.c.name == batch.dataset)
                    .values(
                        accepted_rows=_datasets.c.accepted_rows + batch.accepted_rows,
                        quarantined_rows=_datasets.c.quarantined_rows + batch.quarantined_rows,
                        position=event.position,
                    )
                )
            case QuarantinedRowsFixed() | QuarantinedRowsReleased() | QuarantinedRowsDiscarded() as settled:
                _settle(connection, settled, event.position)
            case SnapshotCreated() as snapshot:
                connection.execute(
                    insert(_snapshots).values(
                        digest=snapshot.snapshot_digest,
                        dataset=snapshot.dataset,
                        position=event.position,
                        as_of_position=snapshot.as_of_position,
                        rows=snapshot.rows,
                        batches=len(batches_until(connection, snapshot.dataset, snapshot.as_of_position)),
                        profile_digest=snapshot.profile_digest,
                    )
                )
            case _:
                pass


def _settle(
    connection: Connection,
    settled: QuarantinedRowsFixed | QuarantinedRowsReleased | QuarantinedRowsDiscarded,
    position: int,
) -> None:
    place = {"dataset": settled.dataset, "batch_id": settled.batch_id}
    connection.execute(insert(_settled), [{**place, "row": row} for row in settled.rows])
    count = len(settled.rows)
    connection.execute(
        update(_batches)
        .where(_batches.c.dataset == settled.dataset, _batches.c.batch_id == settled.batch_id)
        .values(open_rows=_batches.c.open_rows - count)
    )
    discarded = count if isinstance(settled, QuarantinedRowsDiscarded) else 0
    connection.execute(
        update(_datasets)
        .where(_datasets.c.name == settled.dataset)
        .values(
            quarantined_rows=_datasets.c.quarantined_rows - count,
            discarded_rows=_datasets.c.discarded_rows + discarded,
            position=position,
        )
    )


def _declare(connection: Connection, registered: DatasetRegistered, event: Event) -> None:
    name = registered.dataset.name
    values = {
        "body": registered.dataset.SerializeToString(deterministic=True),
        "schema_version": registered.schema_version,
    }
    standing = values | {"retired": False}
    when = {"position": event.position, "declare_time": event.recorded_time, "actor": event.actor}
    connection.execute(insert(_declarations).values(dataset=name, **values, **when))
    if connection.execute(update(_datasets).where(_datasets.c.name == name).values(standing)).rowcount == 0:
        counts = {"accepted_rows": 0, "quarantined_rows": 0, "discarded_rows": 0, "position": 0}
        connection.execute(insert(_datasets).values(name=name, **standing, **counts))


@dataclass(frozen=True)
class StoredBatch:
    """A batch as the tables have it."""

    batch_id: str
    position: int
    content_digest: str
    accepted_rows: int
    accepted_digest: str
    quarantined_rows: int
    quarantine_digest: str
    schema_version: int
    rows_root: str
    warned_rows: int
    findings_body: bytes

    @property
    def findings(self) -> Sequence[RuleFinding]:
        """What rules of severity WARN and distribution checks found."""
        return BatchAccepted.FromString(self.findings_body).findings


_STORED = (
    _batches.c.batch_id,
    _batches.c.position,
    _batches.c.content_digest,
    _batches.c.accepted_rows,
    _batches.c.accepted_digest,
    _batches.c.quarantined_rows,
    _batches.c.quarantine_digest,
    _batches.c.schema_version,
    _batches.c.rows_root,
    _batches.c.warned_rows,
    _batches.c.findings,
)


def dataset(connection: Connection, name: str) -> GetDatasetResponse | None:
    """Return a dataset, None when there is none."""
    row = connection.execute(select(_datasets).where(_datasets.c.name == name)).first()
    return _dataset(row) if row else None


def schema_version(connection: Connection, name: str) -> tuple[int, bool]:
    """Return the newest schema version that the tables know of a dataset, 0 for none, and whether it is retired."""
    query = select(_datasets.c.schema_version, _datasets.c.retired).where(_datasets.c.name == name)
    found = connection.execute(query).first()
    return (found.schema_version, found.retired) if found else (0, False)


def declaration_position(connection: Connection, name: str, version: int) -> int:
    """Return the log position at which a schema version of a dataset was declared."""
    query = select(_declarations.c.position).where(
        _declarations.c.dataset == name, _declarations.c.schema_version == version
    )
    return int(connection.execute(query).scalar_one())


def versions(connection: Connection, name: str, size: int, token: str) -> tuple[list[DatasetVersion], str]:
    """Return a page of a dataset's schema versions, newest first, and the token of the next."""
    query = (
        select(_declarations)
        .where(_declarations.c.dataset == name, _declarations.c.position < last_position(token))
        .order_by(_declarations.c.position.desc())
    )
    rows = connection.execute(query.limit(page_size(size) + 1)).all()
    page = [
        DatasetVersion(
            dataset=Dataset.FromString(row.body),
            schema_version=row.schema_version,
            position=row.position,
            declare_time=row.declare_time,
            actor=row.actor,
        )
        for row in rows[: page_size(size)]
    ]
    return page, page_token(str(page[-1].position)) if len(rows) > len(page) else ""


def datasets(
    connection: Connection, size: int, token: str, include_retired: bool
) -> tuple[list[GetDatasetResponse], str]:
    """Return a page of datasets by name, and the token of the next."""
    query = select(_datasets).where(_datasets.c.name > last_key(token)).order_by(_datasets.c.name)
    if not include_retired:
        query = query.where(~_datasets.c.retired)
    rows = connection.execute(query.limit(page_size(size) + 1)).all()
    page = [_dataset(row) for row in rows[: page_size(size)]]
    return page, page_token(page[-1].dataset.name) if len(rows) > len(page) else ""


def batch(connection: Connection, name: str, batch_id: str) -> StoredBatch | None:
    """Return a batch, None when there is none."""
    query = select(*_STORED).where(_batches.c.dataset == name, _batches.c.batch_id == batch_id)
    row = connection.execute(query).first()
    return StoredBatch(*row) if row else None


def batches(connection: Connection, name: str, size: int, token: str) -> tuple[list[Batch], str]:
    """Return a page of a dataset's batches, newest first, and the token of the next."""
    query = (
        select(_batches)
        .where(_batches.c.dataset == name, _batches.c.position < last_position(token))
        .order_by(_batches.c.position.desc())
    )
    rows = connection.execute(query.limit(page_size(size) + 1)).all()
    page = [
        Batch(
            dataset=row.dataset,
            batch_id=row.batch_id,
            accepted_rows=row.accepted_rows,
            quarantined_rows=row.quarantined_rows,
            accepted_digest=row.accepted_digest,
            position=row.position,
            accept_time=row.accept_time,
            warned_rows=row.warned_rows,
        )
        for row in rows[: page_size(size)]
    ]
    return page, page_token(str(page[-1].position)) if len(rows) > len(page) else ""


def batches_until(connection: Connection, name: str, position: int, after: int = 0) -> list[StoredBatch]:
    """Return the batches of a dataset at or before a position, and after another one, oldest first."""
    there = _batches.c.dataset == name, _batches.c.position <= position, _batches.c.position > after
    query = select(*_STORED).where(*there)
    return [StoredBatch(*row) for row in connection.execute(query.order_by(_batches.c.position))]


def newest_quarantine(connection: Connection, name: str, at_or_before: int) -> StoredBatch | None:
    """Return a dataset's newest batch, at or before a position, that has quarantined rows which are not settled."""
    query = select(*_STORED).where(
        _batches.c.dataset == name, _batches.c.position <= at_or_before, _batches.c.open_rows > 0
    )
    row = connection.execute(query.order_by(_batches.c.position.desc()).limit(1)).first()
    return StoredBatch(*row) if row else None


def settled_rows(connection: Connection, name: str, batch_id: str) -> set[int]:
    """Return the numbers of a batch's rows that were fixed, released or discarded."""
    query = select(_settled.c.row).where(_settled.c.dataset == name, _settled.c.batch_id == batch_id)
    return set(connection.execute(query).scalars())


def snapshot(connection: Connection, digest: str) -> tuple[Snapshot, str] | None:
    """Return a snapshot and the digest of its profile, None when there is none."""
    row = connection.execute(select(_snapshots).where(_snapshots.c.digest == digest)).first()
    return (_snapshot(row), row.profile_digest) if row else None


def snapshots(connection: Connection, name: str, size: int, token: str) -> tuple[list[Snapshot], str]:
    """Return a page of a dataset's snapshots, newest first, and the token of the next."""
    query = (
        select(_snapshots)
        .where(_snapshots.c.dataset == name, _snapshots.c.position < last_position(token))
        .order_by(_snapshots.c.position.desc())
    )
    rows = connection.execute(query.limit(page_size(size) + 1)).all()
    page = [_snapshot(row) for row in rows[: page_size(size)]]
    return page, page_token(str(rows[len(page) - 1].position)) if len(rows) > len(page) else ""


def _dataset(row: Row[tuple[object, ...]]) -> GetDatasetResponse:
    return GetDatasetResponse(
        dataset=Dataset.FromString(row.body),
        schema_version=row.schema_version,
        accepted_rows=row.accepted_rows,
        quarantined_rows=row.quarantined_rows,
        discarded_rows=row.discarded_rows,
        position=row.position,
        retired=row.retired,
    )


def _snapshot(row: Row[tuple[object, ...]]) -> Snapshot:
    return Snapshot(
        dataset=row.dataset,
        digest=row.digest,
        as_of_position=row.as_of_position,
        rows=row.rows,
        batches=row.batches,
    )
