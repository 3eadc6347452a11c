"""Activities on registry: each is one command or one question."""

import asyncio

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToJson
from temporalio import activity

from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, SagaState
from lineal.api.registry.v1.model_pb2 import Bundle, BundleState
from lineal.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from workflows import messages as m
from workflows.activities import COMMAND_SECONDS, Heart

_POLL_SECONDS = 0.1
_ROLES = {
    "champion": ArmRole.ARM_ROLE_CHAMPION,
    "challenger": ArmRole.ARM_ROLE_CHALLENGER,
    "shadow": ArmRole.ARM_ROLE_SHADOW,
}
_ROLE_NAMES = {value: name for name, value in _ROLES.items()}


class RegistryActivities:
    """Endpoints, bundles and the records of sagas."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._registry = RegistryServiceStub(channel)

    @activity.defn(name=m.READ_ENDPOINT.name)
    async def read_endpoint(self, origin: m.Origin) -> m.EndpointView:
        """Return an endpoint as it stands."""
        return _view(await self._endpoint(origin.endpoint))

    @activity.defn(name=m.READ_MODEL.name)
    async def read_model(self, named: m.Named) -> m.ModelView:
        """Return a model."""
        model = (await self._registry.GetModel(api.GetModelRequest(name=named.name), timeout=COMMAND_SECONDS)).model
        lookback = model.retrain.lookback
        return m.ModelView(
            model.feature_set,
            MessageToJson(model.parameters, indent=None),
            lookback.seconds + lookback.nanos / 1e9,
        )

    @activity.defn(name=m.WAIT_UNTIL_ACTIVE.name)
    async def wait_until_active(self, origin: m.Origin) -> m.EndpointView:
        """Return the endpoint once the saga is the one under way on it."""
        with Heart.beating() as heart:
            while True:
                found = await self._endpoint(origin.endpoint)
                if found.active_saga_id == origin.saga_id:
                    return _view(found)
                heart.say(f"{found.active_saga_id or 'nothing'} is under way")
                await asyncio.sleep(_POLL_SECONDS)

    @activity.defn(name=m.CHANGE_ARMS.name)
    async def change_arms(self, change: m.ChangeArms) -> m.Generation:
        """Replace the arms whatever they are now: only this saga may change them."""
        current = await self._endpoint(change.origin.endpoint)
        # When somebody was faster after all, registry says ABORTED and Temporal tries again from here.
        changed = await self._registry.ChangeArms(
            api.ChangeArmsRequest(
                request_id=change.request_id,
                endpoint=change.origin.endpoint,
                generation=current.generation,
                arms=[Arm(bundle_digest=arm.bundle, role=_ROLES[arm.role], share=arm.share) for arm in change.arms],
                saga_id=change.origin.saga_id,
                reason=change.reason,
            ),
            timeout=COMMAND_SECONDS,
        )
        return m.Generation(change.origin, changed.generation)

    @activity.defn(name=m.WAIT_FOR_GENERATION.name)
    async def wait_for_generation(self, wanted: m.Generation) -> m.Replicas:
        """Return the replicas once all of them have a generation."""
        request = api.WaitForGenerationRequest(endpoint=wanted.origin.endpoint, generation=wanted.generation)
        with Heart.beating() as heart:
            heart.say(f"waiting for generation {wanted.generation}")
            while True:
                try:
                    answer = await self._registry.WaitForGeneration(request, timeout=COMMAND_SECONDS)
                    return m.Replicas(list(answer.replica_ids))
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        raise
                    heart.say(f"still waiting: {error.details()}")
                    await asyncio.sleep(_POLL_SECONDS)

    @activity.defn(name=m.ADVANCE_SAGA.name)
    async def advance_saga(self, advance: m.Advance) -> m.Position:
        """Record a step."""
        answer = await self._registry.AdvanceSaga(
            api.AdvanceSagaRequest(
                request_id=advance.request_id,
                endpoint=advance.origin.endpoint,
                saga_id=advance.origin.saga_id,
                step=advance.step,
                finding=advance.finding,
                evidence_digest=advance.evidence,
                bundle_digest=advance.bundle,
            ),
            timeout=COMMAND_SECONDS,
        )
        return m.Position(answer.position)

    @activity.defn(name=m.FINISH_SAGA.name)
    async def finish_saga(self, finish: m.Finish) -> m.Position:
        """Record the end."""
        state = SagaState.SAGA_STATE_COMPLETED if finish.completed else SagaState.SAGA_STATE_COMPENSATED
        answer = await self._registry.FinishSaga(
            api.FinishSagaRequest(
                request_id=finish.request_id,
                endpoint=finish.origin.endpoint,
                saga_id=finish.origin.saga_id,
                state=state,
                outcome=finish.outcome,
            ),
            timeout=COMMAND_SECONDS,
        )
        return m.Position(answer.position)

    @activity.defn(name=m.REGISTER_BUNDLE.name)
    async def register_bundle(self, command: m.BundleCommand) -> m.Position:
        """Make a bundle known."""
        request = api.RegisterBundleRequest(
            request_id=command.request_id, model=command.model, bundle_digest=command.bundle
        )
        return m.Position((await self._registry.RegisterBundle(request, timeout=COMMAND_SECONDS)).position)

    @activity.defn(name=m.REJECT_BUNDLE.name)
    async def reject_bundle(self, command: m.BundleCommand) -> m.Position:
        """Bar a bundle from release."""
        request = api.RejectBundleRequest(
            request_id=command.request_id, bundle_digest=command.bundle, reason=command.reason
        )
        return m.Position((await self._registry.RejectBundle(request, timeout=COMMAND_SECONDS)).position)

    @activity.defn(name=m.EVALUATE_GATES.name)
    async def evaluate_gates(self, gates: m.Gates) -> m.GatesFound:
        """Decide the gates."""
        request = api.EvaluateGatesRequest(
            request_id=gates.request_id,
            bundle_digest=gates.bundle,
            evaluation_digest=gates.evaluation,
            champion_digest=gates.champion,
        )
        bundle = (await self._registry.EvaluateGates(request, timeout=COMMAND_SECONDS)).bundle
        return m.GatesFound(BundleState.Name(bundle.state).removeprefix("BUNDLE_STATE_").lower(), _findings(bundle))

    async def _endpoint(self, name: str) -> api.GetEndpointResponse:
        return await self._registry.GetEndpoint(api.GetEndpointRequest(name=name), timeout=COMMAND_SECONDS)


def _view(found: api.GetEndpointResponse) -> m.EndpointView:
    policy = found.endpoint.release
    return m.EndpointView(
        model=found.endpoint.model,
        generation=found.generation,
        arms=[m.Arm(arm.bundle_digest, _ROLE_NAMES[arm.role], arm.share) for arm in found.arms],
        previous_champion=found.previous_champion_digest,
        canary_shares=list(policy.canary_shares),
        approval_required=policy.approval_required,
        policy_json=MessageToJson(policy, indent=None),
    )


def _findings(bundle: Bundle) -> str:
    failed = [gate for gate in bundle.gates if not gate.passed]
    if failed:
        return "; ".join(f"gate {gate.gate!r} failed: {gate.finding}" for gate in failed)
    return "; ".join(f"{gate.gate}: {gate.finding}" for gate in bundle.gates) or "no gate was asked for"
