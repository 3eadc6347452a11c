"""What ingest does: one method per use case."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.errors import NotFound, RuleViolated
from chassis.events import EventLog
from chassis.paging import PageTokenInvalid, last_key, page_size, page_token
from chassis.past import AsOf
from chassis.projection import ProjectionRunner
from chassis.retirement import refuse_retired
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import DatasetRegistered, SnapshotCreated
from services.ingest import dataset as datasets
from services.ingest import projections, proofs, search, snapshots
from services.ingest.acceptance import Acceptance
from services.ingest.pseudonyms import Pseudonyms, identifiers
from services.ingest.settling import Settling
from services.ingest.surroundings import Surveyor
from services.ingest.uses import users
from services.ingest.validation import REASONS, ROW_NUMBER, reasons_of
from services.ingest.vault import Vault
from services.ingest.vaulted import VaultReading

_NEWEST = 2**63 - 1


class DatasetUnknown(NotFound):
    """No dataset of that name was declared."""


class SnapshotUnknown(NotFound):
    """There is no snapshot of that digest."""


class PositionAhead(RuleViolated):
    """A position lies beyond the end of the log."""


class Ingest:
    """The application of ingest."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        tables: ProjectionRunner,
        uses: ProjectionRunner,
        pseudonyms: Pseudonyms,
        vault: Vault,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._tables = tables
        self._uses = uses
        self._datasets = Repository(log, "dataset", datasets.decider)
        self._pseudonyms = pseudonyms
        surveyor = Surveyor(log, artifacts, tables)
        self._acceptance = Acceptance(log, artifacts, tables, self._state, surveyor, pseudonyms, vault)
        self.quarantine = Settling(log, artifacts, tables, self._state, surveyor, pseudonyms, vault)
        self.vault = VaultReading(log, tables, self._state, self._position, vault)

    async def register_dataset(self, *, request_id: str, dataset: Dataset) -> tuple[int, int]:
        """Declare a dataset; return its schema version and the log position.

        Raises DatasetInvalid, SchemaIncompatible, SnapshotUnknown, Retired for what a rule refers to.
        """
        named = {rule.reference.dataset for rule in dataset.rules if rule.WhichOneof("kind") == "reference"}
        states = {name: (await self._datasets.load(name)).state for name in sorted(named)}
        for name in named - {dataset.name}:
            refuse_retired(states[name].retired, f"dataset {name!r}", "dataset.rules.reference.dataset")
        others = {name: state.dataset for name, state in states.items()}
        if dataset.reference_snapshot:
            await self.snapshot(dataset.reference_snapshot)
        outcome = await self._datasets.execute(
            dataset.name, request_id=request_id, decide=lambda state: datasets.register(state, dataset, others)
        )
        self._acceptance.forget(dataset.name)
        declared = [event for event in outcome.events if isinstance(event, DatasetRegistered)]
        version = declared[-1].schema_version if declared else outcome.state.schema_version
        return version, outcome.position

    async def retire_dataset(self, *, request_id: str, name: str, reason: str) -> int:
        """Let nothing new use a dataset; return the log position. Raises DatasetUnknown, StillUsed."""
        await self._state(name)
        users_of = await self._uses.query(lambda connection: users(connection, name), await self._log.head())
        outcome = await self._datasets.execute(
            name,
            request_id=request_id,
            decide=lambda state: datasets.retire(state, name, reason=reason, users=users_of),
        )
        self._acceptance.forget(name)
        return outcome.position

    async def dataset(self, name: str, min_position: int = 0, as_of: AsOf | None = None) -> api.GetDatasetResponse:
        """Return a dataset with its counts, now or then. Raises DatasetUnknown."""
        found = await self._tables.query(lambda c: projections.dataset(c, name), min_position, as_of)
        if found is None:
            raise _unknown(name)
        return found

    async def datasets_page(
        self, size: int, token: str, include_retired: bool, min_position: int, as_of: AsOf | None
    ) -> tuple[list[api.GetDatasetResponse], str]:
        """Return a page of datasets by name, and the token of the next."""
        return await self._tables.query(
            lambda c: projections.datasets(c, size, token, include_retired), min_position, as_of
        )

    async def versions_page(
        self, name: str, size: int, token: str, min_position: int
    ) -> tuple[list[api.DatasetVersion], str]:
        """Return a page of a dataset's schema versions, newest first, and the token of the next."""
        await self._state(name)
        return await self._tables.query(lambda c: projections.versions(c, name, size, token), min_position)

    def accept_batches(
        self, requests: AsyncIterator[api.IngestBatchesRequest]
    ) -> AsyncIterator[api.IngestBatchesResponse]:
        """Validate and store batches in order; each is durable when its response is yielded."""
        return self._acceptance.accept(requests)

    async def batches_page(
        self, dataset: str, size: int, token: str, as_of: AsOf | None
    ) -> tuple[list[api.Batch], str]:
        """Return a page of a dataset's batches, newest first, and the token of the next."""
        await self._state(dataset)
        return await self._tables.query(lambda c: projections.batches(c, dataset, size, token), as_of=as_of)

    async def quarantined_page(
        self, dataset: str, size: int, token: str, min_position: int = 0
    ) -> tuple[list[api.QuarantinedRow], str]:
        """Return a page of quarantined rows that are not settled, newest batch first, and the token of the next."""
        await self._state(dataset)
        await self._tables.wait_for(min_position)
        position, first = _place(token)
        rows: list[api.QuarantinedRow] = []
        wanted = page_size(size)
        while True:
            found = await self._newest_quarantine(dataset, position)
            if found is None:
                return rows, ""
            position = found.position
            table = await self._acceptance.quarantined(found)
            assert table is not None
            settled = await self._tables.query(partial(projections.settled_rows, name=dataset, batch_id=found.batch_id))
            table = table.filter(_wanted(table[ROW_NUMBER], first, settled))
            here = table.slice(0, wanted - len(rows))
            rows += _rows(found.batch_id, here)
            if here.num_rows < table.num_rows:
                return rows, page_token(f"{position}:{rows[-1].row + 1}")
            position, first = position - 1, 0
            if len(rows) == wanted:
                return rows, page_token(f"{position}:0")

    async def find_rows(
        self, dataset: str, key: Mapping[str, str], until_position: int, size: int
    ) -> list[api.AcceptedRow]:
        """Return accepted rows whose columns have these texts, newest batch first. Raises KeyInvalid."""
        state = await self._state(dataset)
        assert state.dataset is not None
        search.check_key(state.dataset, key)
        direct = identifiers(state.dataset)
        key = {name: self._pseudonyms.of(text) if name in direct else text for name, text in key.items()}
        until = await self._position(until_position)
        rows = await self._tables.query(lambda connection: projections.batches_until(connection, dataset, until), until)
        newest_first = list(reversed(rows))
        return await asyncio.to_thread(search.find, self._artifacts, newest_first, key, page_size(size))

    async def prove_rows(self, dataset: str, batch_id: str, numbers: Sequence[int]) -> api.ProveRowsResponse:
        """Return accepted rows with their paths. Raises BatchUnknown, RowUnknown, RowsNotHashed, TooManyRows."""
        proofs.check_count(numbers)
        await self._state(dataset)
        # Whoever asks may have learnt of the batch from a service that reads the log faster.
        head = await self._log.head()
        found = await self._tables.query(lambda connection: projections.batch(connection, dataset, batch_id), head)
        if found is None:
            raise proofs.BatchUnknown(f"dataset {dataset!r} has no batch {batch_id[:80]!r}; ListBatches names them")
        version = found.schema_version
        declared = await self._tables.query(lambda c: projections.declaration_position(c, dataset, version))
        rows = await asyncio.to_thread(proofs.prove, self._artifacts, dataset, found, numbers)
        return api.ProveRowsResponse(rows=rows, position=found.position, declaration_position=declared)

    async def create_snapshot(self, *, request_id: str, dataset: str, as_of_position: int) -> tuple[api.Snapshot, int]:
        """Fix what is known of a dataset at a position; return the snapshot and the log position of its event.

        Raises DatasetUnknown, PositionAhead, Retired.
        """
        state = await self._state(dataset)
        refuse_retired(state.retired, f"dataset {dataset!r}", "dataset")
        as_of = await self._position(as_of_position)
        rows = await self._tables.query(lambda connection: projections.batches_until(connection, dataset, as_of), as_of)
        declared, version = state.dataset, state.schema_version
        assert declared is not None
        stored = await asyncio.to_thread(snapshots.store, self._artifacts, declared, version, rows)
        event = SnapshotCreated(
            dataset=dataset,
            snapshot_digest=stored.digest,
            as_of_position=stored.as_of_position,
            rows=stored.rows,
            profile_digest=stored.profile_digest,
        )
        outcome = await self._datasets.execute(
            dataset, request_id=request_id, decide=lambda state: datasets.record_snapshot(state, event)
        )
        answered = next((e for e in outcome.events if isinstance(e, SnapshotCreated)), event)
        if answered.snapshot_digest != stored.digest:
            # The command was answered before, when less was known: the same answer again.
            return await self.snapshot(answered.snapshot_digest, outcome.position), outcome.position
        snapshot = api.Snapshot(
            dataset=dataset,
            digest=stored.digest,
            as_of_position=stored.as_of_position,
            rows=stored.rows,
            batches=stored.batches,
            profile_json=stored.profile_json,
        )
        return snapshot, outcome.position

    async def snapshot(self, digest: str, min_position: int = 0) -> api.Snapshot:
        """Return a snapshot with its profile. Raises SnapshotUnknown."""
        found = await self._tables.query(lambda connection: projections.snapshot(connection, digest), min_position)
        if found is None:
            # A reader may come right after the writer: look again once everything in the log has been read.
            head = await self._log.head()
            found = await self._tables.query(lambda connection: projections.snapshot(connection, digest), head)
        if found is None:
            raise SnapshotUnknown(f"there is no snapshot {digest[:80]!r}; ListSnapshots names those of a dataset")
        snapshot, profile_digest = found
        snapshot.profile_json = (await asyncio.to_thread(self._artifacts.read, profile_digest)).decode()
        return snapshot

    async def snapshots_page(
        self, dataset: str, size: int, token: str, as_of: AsOf | None
    ) -> tuple[list[api.Snapshot], str]:
        """Return a page of a dataset's snapshots, newest first, and the token of the next."""
        await self._state(dataset)
        return await self._tables.query(lambda c: projections.snapshots(c, dataset, size, token), as_of=as_of)

    async def snapshot_pieces(self, digest: str) -> AsyncIterator[bytes]:
        """Yield the rows of a snapshot as pieces of an Arrow IPC stream."""
        await self.snapshot(digest)
        pieces = snapshots.pieces(self._artifacts, digest)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    async def _position(self, asked: int) -> int:
        """Return a position that the log has, its head for 0. Raises PositionAhead."""
        head = await self._log.head()
        if asked > head:
            raise PositionAhead(f"the log ends at position {head}, {asked} is asked for; 0 means now")
        return asked or head

    async def _state(self, dataset: str) -> datasets.DatasetState:
        state = (await self._datasets.load(dataset)).state
        if state.dataset is None:
            raise _unknown(dataset)
        return state

    async def _newest_quarantine(self, dataset: str, at_or_before: int) -> projections.StoredBatch | None:
        return await self._tables.query(
            lambda connection: projections.newest_quarantine(connection, dataset, at_or_before)
        )


def _unknown(name: str) -> DatasetUnknown:
    return DatasetUnknown(f"dataset {name!r} was never declared; RegisterDataset or `lineal apply` declares it")


def _place(token: str) -> tuple[int, int]:
    if not token:
        return _NEWEST, 0
    position, _, skip = last_key(token).partition(":")
    if not (position.isdigit() and skip.isdigit()):
        raise PageTokenInvalid("page_token is not one of this service")
    return int(position), int(skip)


def _wanted(numbers: pa.ChunkedArray, first: int, settled: set[int]) -> pa.ChunkedArray:
    # By number rather than by place: rows may be settled between two pages.
    later = pc.greater_equal(numbers, first)
    return pc.and_not(later, pc.is_in(numbers, value_set=pa.array(sorted(settled), pa.int64())))


def _rows(batch_id: str, table: pa.Table) -> list[api.QuarantinedRow]:
    numbers, reasons = table[ROW_NUMBER].to_pylist(), table[REASONS].to_pylist()
    bodies: list[dict[str, Any]] = table.drop_columns([ROW_NUMBER, REASONS]).to_pylist()
    return [
        api.QuarantinedRow(
            batch_id=batch_id,
            row=number,
            reasons=reasons_of(reason),
            row_json=json.dumps(body, ensure_ascii=False, default=str),
        )
        for number, reason, body in zip(numbers, reasons, bodies, strict=True)
    ]
