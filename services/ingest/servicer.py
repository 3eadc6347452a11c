"""The RPCs of ingest: request in, application call, response out."""

from collections.abc import AsyncIterator
from typing import Any

from chassis.past import AsOf
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1 import quarantine_service_pb2 as quarantine_api
from lineal.api.ingest.v1 import vault_service_pb2 as vault_api
from lineal.api.ingest.v1.ingest_service_pb2_grpc import IngestServiceServicer
from lineal.api.ingest.v1.quarantine_service_pb2_grpc import QuarantineServiceServicer
from lineal.api.ingest.v1.vault_service_pb2_grpc import VaultServiceServicer
from services.ingest.application import Ingest
from services.ingest.settling import Settling
from services.ingest.vaulted import VaultReading

Context = Any


class IngestServicer(IngestServiceServicer):
    """`lineal.api.ingest.v1.IngestService`."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    async def RegisterDataset(
        self, request: api.RegisterDatasetRequest, context: Context
    ) -> api.RegisterDatasetResponse:
        version, position = await self._ingest.register_dataset(request_id=request.request_id, dataset=request.dataset)
        return api.RegisterDatasetResponse(schema_version=version, position=position)

    async def GetDataset(self, request: api.GetDatasetRequest, context: Context) -> api.GetDatasetResponse:
        return await self._ingest.dataset(request.name, request.min_position, AsOf.of(request))

    async def ListDatasets(self, request: api.ListDatasetsRequest, context: Context) -> api.ListDatasetsResponse:
        datasets, token = await self._ingest.datasets_page(
            request.page_size, request.page_token, request.include_retired, request.min_position, AsOf.of(request)
        )
        return api.ListDatasetsResponse(datasets=datasets, next_page_token=token)

    async def RetireDataset(self, request: api.RetireDatasetRequest, context: Context) -> api.RetireDatasetResponse:
        position = await self._ingest.retire_dataset(
            request_id=request.request_id, name=request.name, reason=request.reason
        )
        return api.RetireDatasetResponse(position=position)

    async def ListDatasetVersions(
        self, request: api.ListDatasetVersionsRequest, context: Context
    ) -> api.ListDatasetVersionsResponse:
        versions, token = await self._ingest.versions_page(
            request.name, request.page_size, request.page_token, request.min_position
        )
        return api.ListDatasetVersionsResponse(versions=versions, next_page_token=token)

    async def IngestBatches(
        self, request_iterator: AsyncIterator[api.IngestBatchesRequest], context: Context
    ) -> AsyncIterator[api.IngestBatchesResponse]:
        async for response in self._ingest.accept_batches(request_iterator):
            yield response

    async def ListBatches(self, request: api.ListBatchesRequest, context: Context) -> api.ListBatchesResponse:
        batches, token = await self._ingest.batches_page(
            request.dataset, request.page_size, request.page_token, AsOf.of(request)
        )
        return api.ListBatchesResponse(batches=batches, next_page_token=token)

    async def ListQuarantinedRows(
        self, request: api.ListQuarantinedRowsRequest, context: Context
    ) -> api.ListQuarantinedRowsResponse:
        rows, token = await self._ingest.quarantined_page(
            request.dataset, request.page_size, request.page_token, request.min_position
        )
        return api.ListQuarantinedRowsResponse(rows=rows, next_page_token=token)

    async def FindRows(self, request: api.FindRowsRequest, context: Context) -> api.FindRowsResponse:
        rows = await self._ingest.find_rows(
            request.dataset, dict(request.key), request.until_position, request.page_size
        )
        return api.FindRowsResponse(rows=rows)

    async def ProveRows(self, request: api.ProveRowsRequest, context: Context) -> api.ProveRowsResponse:
        return await self._ingest.prove_rows(request.dataset, request.batch_id, list(request.rows))

    async def CreateSnapshot(self, request: api.CreateSnapshotRequest, context: Context) -> api.CreateSnapshotResponse:
        snapshot, position = await self._ingest.create_snapshot(
            request_id=request.request_id, dataset=request.dataset, as_of_position=request.as_of_position
        )
        return api.CreateSnapshotResponse(snapshot=snapshot, position=position)

    async def GetSnapshot(self, request: api.GetSnapshotRequest, context: Context) -> api.GetSnapshotResponse:
        return api.GetSnapshotResponse(snapshot=await self._ingest.snapshot(request.digest))

    async def ListSnapshots(self, request: api.ListSnapshotsRequest, context: Context) -> api.ListSnapshotsResponse:
        snapshots, token = await self._ingest.snapshots_page(
            request.dataset, request.page_size, request.page_token, AsOf.of(request)
        )
        return api.ListSnapshotsResponse(snapshots=snapshots, next_page_token=token)

    async def ReadSnapshot(
        self, request: api.ReadSnapshotRequest, context: Context
    ) -> AsyncIterator[api.ReadSnapshotResponse]:
        async for piece in self._ingest.snapshot_pieces(request.digest):
            yield api.ReadSnapshotResponse(arrow=piece)


class QuarantineServicer(QuarantineServiceServicer):
    """`lineal.api.ingest.v1.QuarantineService`."""

    def __init__(self, settling: Settling) -> None:
        self._settling = settling

    async def FixRows(self, request: quarantine_api.FixRowsRequest, context: Context) -> quarantine_api.FixRowsResponse:
        batch, position = await self._settling.fix(
            request_id=request.request_id,
            dataset=request.dataset,
            batch_id=request.batch_id,
            rows=list(request.rows),
            values=request.arrow,
            reason=request.reason,
        )
        return quarantine_api.FixRowsResponse(
            accepted_batch_id=batch.batch_id, accepted_rows=batch.accepted_rows, position=position
        )

    async def ReleaseRows(
        self, request: quarantine_api.ReleaseRowsRequest, context: Context
    ) -> quarantine_api.ReleaseRowsResponse:
        batch, position = await self._settling.release(
            request_id=request.request_id,
            dataset=request.dataset,
            batch_id=request.batch_id,
            rows=list(request.rows),
            reason=request.reason,
        )
        return quarantine_api.ReleaseRowsResponse(
            accepted_batch_id=batch.batch_id, accepted_rows=batch.accepted_rows, position=position
        )

    async def DiscardRows(
        self, request: quarantine_api.DiscardRowsRequest, context: Context
    ) -> quarantine_api.DiscardRowsResponse:
        count, position = await self._settling.discard(
            request_id=request.request_id,
            dataset=request.dataset,
            batch_id=request.batch_id,
            rows=list(request.rows),
            reason=request.reason,
        )
        return quarantine_api.DiscardRowsResponse(discarded_rows=count, position=position)


class VaultServicer(VaultServiceServicer):
    """`lineal.api.ingest.v1.VaultService`."""

    def __init__(self, vault: VaultReading) -> None:
        self._vault = vault

    async def ReadProtectedValues(
        self, request: vault_api.ReadProtectedValuesRequest, context: Context
    ) -> vault_api.ReadProtectedValuesResponse:
        return await self._vault.read(request)

    async def ExportVault(
        self, request: vault_api.ExportVaultRequest, context: Context
    ) -> AsyncIterator[vault_api.ExportVaultResponse]:
        async for piece in self._vault.pieces():
            yield vault_api.ExportVaultResponse(arrow=piece)
