"""The registry's RPCs: request in, application call, response out."""

from typing import Any

from chassis.past import AsOf
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.registry_service_pb2_grpc import RegistryServiceServicer
from services.registry import replica
from services.registry.application import Registry
from services.registry.leases import Leases
from services.registry.reviewing import Reviewing
from services.registry.signing import Signing

Context = Any


class RegistryServicer(RegistryServiceServicer):
    """`lineal.api.registry.v1.RegistryService`."""

    def __init__(self, registry: Registry, leases: Leases, signing: Signing, reviewing: Reviewing) -> None:
        self._registry = registry
        self._leases = leases
        self._signing = signing
        self._reviewing = reviewing

    async def RegisterModel(self, request: api.RegisterModelRequest, context: Context) -> api.RegisterModelResponse:
        position = await self._registry.register_model(request_id=request.request_id, model=request.model)
        return api.RegisterModelResponse(position=position)

    async def GetModel(self, request: api.GetModelRequest, context: Context) -> api.GetModelResponse:
        return await self._registry.model(request.name, AsOf.of(request))

    async def ListModels(self, request: api.ListModelsRequest, context: Context) -> api.ListModelsResponse:
        return await self._registry.models_page(request)

    async def RetireModel(self, request: api.RetireModelRequest, context: Context) -> api.RetireModelResponse:
        position = await self._registry.retire_model(
            request_id=request.request_id, name=request.name, reason=request.reason
        )
        return api.RetireModelResponse(position=position)

    async def ReviewExplanations(
        self, request: api.ReviewExplanationsRequest, context: Context
    ) -> api.ReviewExplanationsResponse:
        position = await self._reviewing.review(
            request_id=request.request_id,
            model=request.model,
            digest=request.policy_digest,
            reason=request.reason,
        )
        return api.ReviewExplanationsResponse(position=position)

    async def RegisterBundle(self, request: api.RegisterBundleRequest, context: Context) -> api.RegisterBundleResponse:
        position = await self._registry.register_bundle(
            request_id=request.request_id, model=request.model, digest=request.bundle_digest
        )
        return api.RegisterBundleResponse(position=position)

    async def GetBundle(self, request: api.GetBundleRequest, context: Context) -> api.GetBundleResponse:
        return api.GetBundleResponse(bundle=await self._registry.bundle(request.digest, AsOf.of(request)))

    async def ListBundles(self, request: api.ListBundlesRequest, context: Context) -> api.ListBundlesResponse:
        bundles, token = await self._registry.bundles_page(request)
        return api.ListBundlesResponse(bundles=bundles, next_page_token=token)

    async def EvaluateGates(self, request: api.EvaluateGatesRequest, context: Context) -> api.EvaluateGatesResponse:
        bundle, position = await self._registry.evaluate_gates(
            request_id=request.request_id,
            digest=request.bundle_digest,
            evaluation_digest=request.evaluation_digest,
            champion=request.champion_digest,
        )
        return api.EvaluateGatesResponse(bundle=bundle, position=position)

    async def ApproveBundle(self, request: api.ApproveBundleRequest, context: Context) -> api.ApproveBundleResponse:
        position = await self._registry.approve_bundle(
            request_id=request.request_id, digest=request.bundle_digest, reason=request.reason
        )
        return api.ApproveBundleResponse(position=position)

    async def RejectBundle(self, request: api.RejectBundleRequest, context: Context) -> api.RejectBundleResponse:
        position = await self._registry.reject_bundle(
            request_id=request.request_id, digest=request.bundle_digest, reason=request.reason
        )
        return api.RejectBundleResponse(position=position)

    async def SignBundle(self, request: api.SignBundleRequest, context: Context) -> api.SignBundleResponse:
        digest = await self._registry.full_digest(request.bundle_digest)
        position = await self._signing.sign_bundle(request_id=request.request_id, digest=digest)
        return api.SignBundleResponse(position=position)

    async def ListSigningKeys(
        self, request: api.ListSigningKeysRequest, context: Context
    ) -> api.ListSigningKeysResponse:
        return api.ListSigningKeysResponse(keys=await self._signing.keys())

    async def RotateSigningKey(
        self, request: api.RotateSigningKeyRequest, context: Context
    ) -> api.RotateSigningKeyResponse:
        identity, position = await self._signing.rotate(request_id=request.request_id)
        return api.RotateSigningKeyResponse(key_id=identity, position=position)

    async def RevokeSigningKey(
        self, request: api.RevokeSigningKeyRequest, context: Context
    ) -> api.RevokeSigningKeyResponse:
        position = await self._signing.revoke(
            request_id=request.request_id, identity=request.key_id, reason=request.reason
        )
        return api.RevokeSigningKeyResponse(position=position)

    async def RegisterEndpoint(
        self, request: api.RegisterEndpointRequest, context: Context
    ) -> api.RegisterEndpointResponse:
        position = await self._registry.register_endpoint(request_id=request.request_id, endpoint=request.endpoint)
        return api.RegisterEndpointResponse(position=position)

    async def GetEndpoint(self, request: api.GetEndpointRequest, context: Context) -> api.GetEndpointResponse:
        return await self._registry.endpoint(request.name, AsOf.of(request))

    async def ListEndpoints(self, request: api.ListEndpointsRequest, context: Context) -> api.ListEndpointsResponse:
        endpoints, token = await self._registry.endpoints_page(request)
        return api.ListEndpointsResponse(endpoints=endpoints, next_page_token=token)

    async def RetireEndpoint(self, request: api.RetireEndpointRequest, context: Context) -> api.RetireEndpointResponse:
        position = await self._registry.retire_endpoint(
            request_id=request.request_id, name=request.name, reason=request.reason
        )
        return api.RetireEndpointResponse(position=position)

    async def SuspendEndpoint(
        self, request: api.SuspendEndpointRequest, context: Context
    ) -> api.SuspendEndpointResponse:
        position = await self._registry.suspend_endpoint(
            request_id=request.request_id, name=request.name, suspended=True, reason=request.reason
        )
        return api.SuspendEndpointResponse(position=position)

    async def ResumeEndpoint(self, request: api.ResumeEndpointRequest, context: Context) -> api.ResumeEndpointResponse:
        position = await self._registry.suspend_endpoint(
            request_id=request.request_id, name=request.name, suspended=False, reason=request.reason
        )
        return api.ResumeEndpointResponse(position=position)

    async def ChangeArms(self, request: api.ChangeArmsRequest, context: Context) -> api.ChangeArmsResponse:
        generation, position = await self._registry.change_arms(
            request_id=request.request_id,
            endpoint=request.endpoint,
            generation=request.generation,
            arms=request.arms,
            saga_id=request.saga_id,
            reason=request.reason,
        )
        return api.ChangeArmsResponse(generation=generation, position=position)

    async def WaitForGeneration(
        self, request: api.WaitForGenerationRequest, context: Context
    ) -> api.WaitForGenerationResponse:
        replicas = await self._leases.wait_for(request.endpoint, request.generation)
        return api.WaitForGenerationResponse(replica_ids=replicas)

    async def RequestRetrain(self, request: api.RequestRetrainRequest, context: Context) -> api.RequestRetrainResponse:
        saga_id, position = await self._registry.request_retrain(request)
        return api.RequestRetrainResponse(saga_id=saga_id, position=position)

    async def RequestRelease(self, request: api.RequestReleaseRequest, context: Context) -> api.RequestReleaseResponse:
        saga_id, position = await self._registry.request_release(
            request_id=request.request_id,
            endpoint=request.endpoint,
            bundle_digest=request.bundle_digest,
            reason=request.reason,
        )
        return api.RequestReleaseResponse(saga_id=saga_id, position=position)

    async def RequestRollback(
        self, request: api.RequestRollbackRequest, context: Context
    ) -> api.RequestRollbackResponse:
        saga_id, position = await self._registry.request_rollback(
            request_id=request.request_id, endpoint=request.endpoint, reason=request.reason
        )
        return api.RequestRollbackResponse(saga_id=saga_id, position=position)

    async def ApproveSaga(self, request: api.ApproveSagaRequest, context: Context) -> api.ApproveSagaResponse:
        position = await self._registry.approve_saga(
            request_id=request.request_id,
            endpoint=request.endpoint,
            saga_id=request.saga_id,
            reason=request.reason,
        )
        return api.ApproveSagaResponse(position=position)

    async def RejectSaga(self, request: api.RejectSagaRequest, context: Context) -> api.RejectSagaResponse:
        position = await self._registry.reject_saga(
            request_id=request.request_id,
            endpoint=request.endpoint,
            saga_id=request.saga_id,
            reason=request.reason,
        )
        return api.RejectSagaResponse(position=position)

    async def AdvanceSaga(self, request: api.AdvanceSagaRequest, context: Context) -> api.AdvanceSagaResponse:
        return api.AdvanceSagaResponse(position=await self._registry.advance_saga(request))

    async def FinishSaga(self, request: api.FinishSagaRequest, context: Context) -> api.FinishSagaResponse:
        position = await self._registry.finish_saga(
            request_id=request.request_id,
            endpoint=request.endpoint,
            saga_id=request.saga_id,
            end=request.state,
            outcome=request.outcome,
        )
        return api.FinishSagaResponse(position=position)

    async def ArchiveSaga(self, request: api.ArchiveSagaRequest, context: Context) -> api.ArchiveSagaResponse:
        digest, position = await self._registry.archive_saga(
            request_id=request.request_id,
            endpoint=request.endpoint,
            saga_id=request.saga_id,
            history=request.history,
        )
        return api.ArchiveSagaResponse(history_digest=digest, position=position)

    async def GetSaga(self, request: api.GetSagaRequest, context: Context) -> api.GetSagaResponse:
        found = await self._registry.saga(request.saga_id, request.min_position, AsOf.of(request))
        return api.GetSagaResponse(saga=found)

    async def ListSagas(self, request: api.ListSagasRequest, context: Context) -> api.ListSagasResponse:
        sagas, token = await self._registry.sagas_page(request)
        return api.ListSagasResponse(sagas=sagas, next_page_token=token)

    async def RenewLease(self, request: api.RenewLeaseRequest, context: Context) -> api.RenewLeaseResponse:
        end = await self._leases.renew(
            request.replica_id, request.generations, request.refused, leaving=request.leaving
        )
        response = api.RenewLeaseResponse()
        response.lease_end_time.FromDatetime(end)
        response.lease.FromTimedelta(replica.LEASE)
        return response

    async def ListReplicas(self, request: api.ListReplicasRequest, context: Context) -> api.ListReplicasResponse:
        return api.ListReplicasResponse(replicas=self._leases.live())
