"""Take batches in: some are examined ahead while the one before is written to the log, in the order they were sent."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from chassis.artifacts import ArtifactStore
from chassis.errors import AlreadyExists
from chassis.events import EventLog
from chassis.ids import request_id_from
from chassis.projection import ProjectionRunner
from chassis.retirement import refuse_retired
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.ingest import batch as batches
from services.ingest import projections
from services.ingest.batch import BatchColumnsWrong, Examined
from services.ingest.dataset import DatasetState
from services.ingest.pseudonyms import Pseudonyms
from services.ingest.surroundings import Surveyor
from services.ingest.validation import REASONS, Validator, commonest
from services.ingest.vault import BatchName, Vault

_AHEAD = 3
_SCHEMAS = 256


@dataclass(frozen=True)
class _Ready:
    """A batch that may be appended, or one that was accepted before."""

    dataset: str
    batch_id: str
    # Of the bytes as sent: keyed, and plain as where no column is an identifier.
    digests: tuple[str, str]
    examined: Examined | None
    before: projections.StoredBatch | None


class Acceptance:
    """Accepts batches; `load` returns a dataset's newest state or raises when there is none."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        tables: ProjectionRunner,
        load: Callable[[str], Awaitable[DatasetState]],
        surveyor: Surveyor,
        pseudonyms: Pseudonyms,
        vault: Vault,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._tables = tables
        self._load = load
        self._surveyor = surveyor
        self._pseudonyms = pseudonyms
        self._vault = vault
        self._schemas: OrderedDict[str, tuple[int, Dataset, Validator]] = OrderedDict()

    def forget(self, dataset: str) -> None:
        """Read a dataset's schema anew with its next batch."""
        self._schemas.pop(dataset, None)

    async def accept(
        self, requests: AsyncIterator[api.IngestBatchesRequest]
    ) -> AsyncIterator[api.IngestBatchesResponse]:
        """Validate and store batches; each is durable when its response is yielded. The first refused one ends it."""
        queue: asyncio.Queue[asyncio.Task[_Ready] | None] = asyncio.Queue()
        slots = asyncio.Semaphore(_AHEAD)
        started: set[asyncio.Task[_Ready]] = set()

        async def read() -> None:
            try:
                async for request in requests:
                    await slots.acquire()
                    task = asyncio.create_task(self._examine(request))
                    started.add(task)
                    queue.put_nowait(task)
            finally:
                queue.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await queue.get()) is not None:
                ready = await task
                started.discard(task)
                yield await self._append(ready)
                slots.release()
            # Raises what broke the stream of requests.
            await reader
        finally:
            for left in (reader, *started):
                left.cancel()
            for left in (reader, *started):
                with suppress(asyncio.CancelledError, Exception):
                    await left

    async def quarantined(self, batch: projections.StoredBatch) -> pa.Table | None:
        """Return the quarantined rows of a batch, None when it has none."""
        return await asyncio.to_thread(self._read, batch.quarantine_digest) if batch.quarantine_digest else None

    async def _examine(self, request: api.IngestBatchesRequest) -> _Ready:
        dataset, batch_id, data = request.dataset, request.batch_id, request.arrow
        batches.check_id(batch_id)
        digests = self._pseudonyms.digest(data), batches.content_digest(data)
        before, (version, retired) = await self._tables.query(
            lambda connection: (
                projections.batch(connection, dataset, batch_id),
                projections.schema_version(connection, dataset),
            )
        )
        if before is not None:
            return _Ready(dataset, batch_id, digests, None, before)
        if retired:
            self.forget(dataset)
        schema = await self._schema(dataset, version)
        try:
            examined = await self._validated(schema, batch_id, data)
        except BatchColumnsWrong:
            # The schema may have been declared anew elsewhere, a moment ago.
            self.forget(dataset)
            newest = await self._schema(dataset, version)
            if newest[0] == schema[0]:
                raise
            examined = await self._validated(newest, batch_id, data)
        for stored in (examined.accepted, examined.quarantined):
            if stored:
                await asyncio.to_thread(self._artifacts.put, stored)
        if examined.vaulted is not None:
            name = BatchName(dataset, batch_id, examined.event.content_digest)
            await asyncio.to_thread(self._vault.keep, examined.declared, name, *examined.vaulted)
        return _Ready(dataset, batch_id, digests, examined, None)

    async def _validated(self, schema: tuple[int, Dataset, Validator], batch_id: str, data: bytes) -> Examined:
        version, dataset, validator = schema
        around = await self._surveyor.of(dataset)
        return await asyncio.to_thread(
            batches.examine, dataset, version, validator, batch_id, data, around, self._pseudonyms
        )

    async def _append(self, ready: _Ready) -> api.IngestBatchesResponse:
        before, examined = ready.before, ready.examined
        if examined is not None:
            request_id = request_id_from("batch", ready.dataset, ready.batch_id)
            try:
                result = await self._log.append(
                    f"batches/{ready.dataset}", [examined.event], request_id=request_id, expected_revision=None
                )
            except AlreadyExists:
                # Another batch of this name came in between; the read tables are about to have it.
                before = await self._stored(ready.dataset, ready.batch_id)
            else:
                return api.IngestBatchesResponse(
                    batch_id=ready.batch_id,
                    accepted_rows=examined.event.accepted_rows,
                    quarantined_rows=examined.event.quarantined_rows,
                    reasons=commonest(examined.reasons),
                    position=result.position,
                    repeated_request=result.repeated,
                    warned_rows=examined.event.warned_rows,
                    findings=examined.event.findings,
                )
        assert before is not None
        batches.check_same(ready.dataset, ready.batch_id, before.content_digest, ready.digests)
        refused = await self.quarantined(before)
        return api.IngestBatchesResponse(
            batch_id=ready.batch_id,
            accepted_rows=before.accepted_rows,
            quarantined_rows=before.quarantined_rows,
            reasons=commonest(refused[REASONS].to_pylist() if refused is not None else []),
            position=before.position,
            repeated_request=True,
            warned_rows=before.warned_rows,
            findings=before.findings,
        )

    async def _schema(self, dataset: str, seen_version: int) -> tuple[int, Dataset, Validator]:
        known = self._schemas.get(dataset)
        if known is None or known[0] < seen_version:
            state = await self._load(dataset)
            refuse_retired(state.retired, f"dataset {dataset!r}", "dataset")
            assert state.dataset is not None
            known = state.schema_version, state.dataset, Validator(state.dataset)
            self._schemas[dataset] = known
        self._schemas.move_to_end(dataset)
        while len(self._schemas) > _SCHEMAS:
            self._schemas.popitem(last=False)
        return known

    async def _stored(self, dataset: str, batch_id: str) -> projections.StoredBatch:
        head = await self._log.head()
        found = await self._tables.query(lambda connection: projections.batch(connection, dataset, batch_id), head)
        assert found is not None
        return found

    def _read(self, digest: str) -> pa.Table:
        with self._artifacts.open(digest) as file, pq.ParquetFile(file) as parquet:
            return parquet.read()
