"""What the registry does: one method per use case."""

import asyncio
from collections.abc import Callable, Sequence

from google.protobuf.message import Message

from chassis.aggregate import Outcome, Repository
from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument, NotFound, RuleViolated
from chassis.events import EventLog
from chassis.past import AsOf, until
from chassis.projection import ProjectionRunner
from chassis.retirement import refuse_retired
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import Arm, Endpoint, Saga, SagaKind, SagaState
from lineal.api.registry.v1.events_pb2 import ArmsChanged
from lineal.api.registry.v1.model_pb2 import Bundle, Model
from services.registry import bundle as bundles
from services.registry import endpoint as endpoints
from services.registry import evidence, past, projections, views
from services.registry import model as models
from services.registry import saga as sagas
from services.registry.reviewing import review_view
from services.registry.signing import Signing


class ModelUnknown(NotFound):
    """No model of that name was declared."""


class SagaUnknown(NotFound):
    """There is no saga of that id."""


class DigestAmbiguous(InvalidArgument):
    """The beginning of a digest names no bundle, or several."""


class BundleServes(RuleViolated):
    """A champion cannot be rejected."""


class Registry:
    """The application of the registry."""

    def __init__(self, log: EventLog, artifacts: ArtifactStore, tables: ProjectionRunner, signing: Signing) -> None:
        self._log = log
        self._artifacts = artifacts
        self._tables = tables
        self._signing = signing
        self._models = Repository(log, "model", models.decider)
        self._bundles = Repository(log, "bundle", bundles.decider)
        self._endpoints = Repository(log, "endpoint", endpoints.decider)

    # Models

    async def register_model(self, *, request_id: str, model: Model) -> int:
        """Declare a model; return the log position."""
        outcome = await self._models.execute(
            model.name, request_id=request_id, decide=lambda state: models.register(state, model)
        )
        return outcome.position

    async def retire_model(self, *, request_id: str, name: str, reason: str) -> int:
        """Let nothing new use a model; return the log position. Raises ModelUnknown, StillUsed."""
        await self.model(name)
        head = await self._log.head()
        users = await self._tables.query(lambda connection: projections.users_of_model(connection, name), head)
        outcome = await self._models.execute(
            name, request_id=request_id, decide=lambda state: models.retire(state, name, reason=reason, users=users)
        )
        return outcome.position

    async def model(self, name: str, as_of: AsOf | None = None) -> api.GetModelResponse:
        """Return a model, now or then. Raises ModelUnknown."""
        events = until(await self._log.read_stream(f"model/{name}"), as_of)
        found = views.model_state(events)
        if found.model is None:
            then = "was not declared then" if as_of else "was never declared"
            raise ModelUnknown(f"model {name!r} {then}; `lineal apply` declares it")
        return api.GetModelResponse(model=found.model, retired=found.retired, review=review_view(events))

    async def models_page(self, request: api.ListModelsRequest) -> api.ListModelsResponse:
        """Return a page of models by name, and the token of the next."""
        return await self._tables.query(
            lambda c: projections.models(c, request), request.min_position, AsOf.of(request)
        )

    # Bundles

    async def register_bundle(self, *, request_id: str, model: str, digest: str) -> int:
        """Make a bundle known to its model, and sign it, after reading every file that its manifest names.

        Raises ModelUnknown, Retired, ManifestInvalid, BundleElsewhere.
        """
        await self._usable_model(model, "model")
        manifest = evidence.manifest(self._artifacts, digest)
        if manifest.get("model") != model:
            raise evidence.ManifestInvalid(
                f"bundle {digest[:12]} says it is of model {manifest.get('model')!r}, not {model!r}"
            )
        signed = (await self._bundles.load(digest)).state.signed
        signature_digest = "" if signed else await self._signing.signature(digest, manifest)
        outcome = await self._bundles.execute(
            digest,
            request_id=request_id,
            decide=lambda state: bundles.register(
                state,
                digest=digest,
                model=model,
                run_id=str(manifest.get("run_id", "")),
                training_set_digest=str(manifest.get("training_set_digest", "")),
                signature_digest=signature_digest,
            ),
        )
        return outcome.position

    async def evaluate_gates(
        self, *, request_id: str, digest: str, evaluation_digest: str, champion: str
    ) -> tuple[Bundle, int]:
        """Decide the gates of a bundle from the evidence.

        Raises BundleUnknown, BundleNotReleasable, BundleAlreadyRejected, EvaluationInvalid.
        """
        standing = (await self._bundles.load(digest)).state
        bundles.require_known(standing, digest)
        policy = (await self.model(standing.model)).model.gates
        evaluation = evidence.evaluation(self._artifacts, evaluation_digest) if evaluation_digest else None
        outcome = await self._bundles.execute(
            digest,
            request_id=request_id,
            decide=lambda state: bundles.evaluate(
                state,
                digest,
                policy=policy,
                champion=champion,
                evaluation=evaluation,
                evaluation_digest=evaluation_digest,
            ),
        )
        return views.bundle_view(await self._log.read_stream(f"bundle/{digest}")), outcome.position

    async def approve_bundle(self, *, request_id: str, digest: str, reason: str) -> int:
        """Approve a bundle whose gates held; return the log position."""
        digest = await self.full_digest(digest)
        outcome = await self._bundles.execute(
            digest, request_id=request_id, decide=lambda state: bundles.approve(state, digest, reason=reason)
        )
        return outcome.position

    async def reject_bundle(self, *, request_id: str, digest: str, reason: str) -> int:
        """Bar a bundle from release. Raises BundleServes while it is a champion."""
        digest = await self.full_digest(digest)
        for name in await self._tables.query(lambda c: projections.endpoints_with_champion(c, digest)):
            # The table may lag; the stream decides.
            if (await self._endpoints.load(name)).state.champion == digest:
                raise BundleServes(f"bundle {digest[:12]} is the champion of {name!r}; roll back first")
        outcome = await self._bundles.execute(
            digest, request_id=request_id, decide=lambda state: bundles.reject(state, digest, reason=reason)
        )
        return outcome.position

    async def bundle(self, digest: str, as_of: AsOf | None) -> Bundle:
        """Return a bundle, now or then. Raises BundleUnknown, DigestAmbiguous."""
        digest = await self.full_digest(digest)
        events = await self._log.read_stream(f"bundle/{digest}")
        view = views.bundle_view(until(events, as_of))
        if not view.digest:
            raise bundles.BundleUnknown(f"bundle {digest[:12]} was not registered then")
        return view

    async def bundles_page(self, request: api.ListBundlesRequest) -> tuple[list[Bundle], str]:
        """Return a page of bundles, newest first, and the token of the next."""
        return await self._tables.query(lambda c: projections.bundles_of(c, request), as_of=AsOf.of(request))

    async def full_digest(self, digest: str) -> str:
        """Return the bundle digest that begins so. Raises DigestAmbiguous, BundleUnknown."""
        if len(digest) == 64:
            return digest
        if len(digest) < 8:
            raise DigestAmbiguous(
                f"{digest!r} is too short", [FieldViolation("digest", "give at least 8 characters of the digest")]
            )
        # Whoever has just registered a bundle may name it by the beginning.
        head = await self._log.head()
        found = await self._tables.query(lambda connection: projections.digests_like(connection, digest), head)
        if not found:
            raise bundles.BundleUnknown(f"no bundle begins with {digest!r}; `lineal bundles` lists them")
        if len(found) > 1:
            raise DigestAmbiguous(
                f"several bundles begin with {digest!r}", [FieldViolation("digest", "give more of it")]
            )
        return found[0]

    # Endpoints

    async def register_endpoint(self, *, request_id: str, endpoint: Endpoint) -> int:
        """Declare an endpoint of a declared model; return the log position. Raises ModelUnknown, Retired."""
        await self._usable_model(endpoint.model, "endpoint.model")
        outcome = await self._endpoints.execute(
            endpoint.name, request_id=request_id, decide=lambda state: endpoints.register(state, endpoint)
        )
        return outcome.position

    async def retire_endpoint(self, *, request_id: str, name: str, reason: str) -> int:
        """Let nothing new use an endpoint; return the log position. Raises EndpointUnknown, SagaUnderWay."""
        return (await self._decide(name, request_id, lambda state: endpoints.retire(state, reason=reason))).position

    async def suspend_endpoint(self, *, request_id: str, name: str, suspended: bool, reason: str) -> int:
        """Stop an endpoint's answers, or let it answer again; return the log position. Raises EndpointUnknown."""
        decided = await self._decide(name, request_id, lambda state: endpoints.suspend(state, suspended, reason=reason))
        return decided.position

    async def endpoint(self, name: str, as_of: AsOf | None = None) -> api.GetEndpointResponse:
        """Return an endpoint, now or then. Raises EndpointUnknown."""
        view = await self._endpoint_view(name, as_of)
        if not view.endpoint.name:
            raise _unknown(name)
        if view.HasField("champion") and not view.champion.approved_by:
            past.approved(view.champion, await self._log.read_stream(f"bundle/{view.champion.bundle_digest}"))
        return view

    async def endpoints_page(self, request: api.ListEndpointsRequest) -> tuple[list[api.GetEndpointResponse], str]:
        """Return a page of endpoints by name, and the token of the next."""
        as_of = AsOf.of(request)
        names, following = await self._tables.query(
            lambda c: projections.endpoint_names(c, request), request.min_position, as_of
        )
        return [await self._endpoint_view(name, as_of) for name in names], following

    async def change_arms(
        self, *, request_id: str, endpoint: str, generation: int, arms: Sequence[Arm], saga_id: str, reason: str
    ) -> tuple[int, int]:
        """Replace the arms of an endpoint; return the new generation and the log position.

        Raises the errors of `endpoint.change_arms`, BundleUnknown, BundleNotReleasable, and ManifestInvalid for a new
        bundle that is not intact.
        """
        known = (await self._endpoints.load(endpoint)).state
        model, standing_arms = known.endpoint, {arm.bundle_digest for arm in known.arms}
        for arm in arms:
            standing = (await self._bundles.load(arm.bundle_digest)).state
            bundles.require(standing, arm.bundle_digest, shadow=arm.role == endpoints.SHADOW)
            if arm.bundle_digest not in standing_arms:
                evidence.manifest(self._artifacts, arm.bundle_digest)
            if model is not None and standing.model != model.model:
                raise bundles.BundleElsewhere(
                    f"bundle {arm.bundle_digest[:12]} is of model {standing.model!r}, "
                    f"the endpoint serves {model.model!r}"
                )
        outcome = await self._decide(
            endpoint,
            request_id,
            lambda state: endpoints.change_arms(
                state, generation=generation, arms=arms, saga_id=saga_id, reason=reason
            ),
        )
        for event in outcome.events:
            if isinstance(event, ArmsChanged):
                return event.generation, outcome.position
        return outcome.state.generation, outcome.position

    # Sagas

    async def request_retrain(self, request: api.RequestRetrainRequest) -> tuple[str, int]:
        """Ask for a retrain; return the saga's id and the log position."""
        known = (await self._endpoints.load(request.endpoint)).state.endpoint
        model = (await self.model(known.model)).model if known else Model()
        saga = sagas.retrain(request)
        if not (model.feature_set or saga.feature_set or known is None):
            raise endpoints.EndpointInvalid(
                f"model {model.name!r} has no feature set to train on",
                [FieldViolation("endpoint", "import its next bundle with `lineal import` and release that")],
            )
        return await self._request(
            request.request_id, saga, lambda state: endpoints.request_retrain(state, saga, model.retrain)
        )

    async def request_release(
        self, *, request_id: str, endpoint: str, bundle_digest: str, reason: str
    ) -> tuple[str, int]:
        """Ask for a release; return the saga's id and the log position."""
        digest = await self.full_digest(bundle_digest)
        bundles.require((await self._bundles.load(digest)).state, digest)
        evidence.manifest(self._artifacts, digest)
        saga = sagas.asked_for(SagaKind.SAGA_KIND_RELEASE, request_id, endpoint, reason)
        saga.bundle_digest = digest
        return await self._request(request_id, saga, lambda state: endpoints.request_release(state, saga))

    async def request_rollback(self, *, request_id: str, endpoint: str, reason: str) -> tuple[str, int]:
        """Ask for the previous champion; return the saga's id and the log position."""
        saga = sagas.asked_for(SagaKind.SAGA_KIND_ROLLBACK, request_id, endpoint, reason)
        return await self._request(request_id, saga, lambda state: endpoints.request_rollback(state, saga))

    async def approve_saga(self, *, request_id: str, endpoint: str, saga_id: str, reason: str) -> int:
        """Let a waiting saga go on; return the log position."""
        outcome = await self._decide(
            endpoint, request_id, lambda state: endpoints.approve_saga(state, saga_id=saga_id, reason=reason)
        )
        return outcome.position

    async def reject_saga(self, *, request_id: str, endpoint: str, saga_id: str, reason: str) -> int:
        """Stop a saga; return the log position."""
        outcome = await self._decide(
            endpoint, request_id, lambda state: endpoints.reject_saga(state, saga_id=saga_id, reason=reason)
        )
        return outcome.position

    async def advance_saga(self, request: api.AdvanceSagaRequest) -> int:
        """Record a step of a saga; return the log position."""
        if request.evidence_digest:
            # Its report was stored before, maybe long ago: young, it is not collected before the step names it.
            await asyncio.to_thread(self._artifacts.touch, request.evidence_digest)
        outcome = await self._decide(
            request.endpoint,
            request.request_id,
            lambda state: endpoints.advance_saga(
                state,
                saga_id=request.saga_id,
                step=request.step,
                finding=request.finding,
                evidence_digest=request.evidence_digest,
                bundle_digest=request.bundle_digest,
            ),
        )
        return outcome.position

    async def finish_saga(
        self, *, request_id: str, endpoint: str, saga_id: str, end: "SagaState.ValueType", outcome: str
    ) -> int:
        """Record the end of a saga; return the log position."""
        done = await self._decide(
            endpoint, request_id, lambda state: endpoints.finish_saga(state, saga_id=saga_id, end=end, outcome=outcome)
        )
        return done.position

    async def archive_saga(self, *, request_id: str, endpoint: str, saga_id: str, history: bytes) -> tuple[str, int]:
        """Store the history of an ended saga; return its digest and the log position."""
        digest = self._artifacts.put(history)
        outcome = await self._decide(
            endpoint, request_id, lambda state: endpoints.archive_saga(state, saga_id=saga_id, history_digest=digest)
        )
        return digest, outcome.position

    async def saga(self, saga_id: str, min_position: int, as_of: AsOf | None = None) -> Saga:
        """Return a saga with its steps, as the log has it now or had it then. Raises SagaUnknown."""
        # Whoever has just asked for a saga wants to see it.
        known = max(min_position, await self._log.head())
        found = await self._tables.query(lambda connection: projections.saga(connection, saga_id), known)
        if found is not None and as_of:
            found = views.saga_view(until(await self._log.read_stream(f"endpoint/{found.endpoint}"), as_of), saga_id)
        if found is None:
            raise SagaUnknown(f"there is no saga {saga_id!r}; `lineal sagas` lists them")
        return found

    async def sagas_page(self, request: api.ListSagasRequest) -> tuple[list[Saga], str]:
        """Return a page of sagas, newest first, and the token of the next."""
        return await self._tables.query(lambda c: projections.sagas_of(c, request), as_of=AsOf.of(request))

    async def _endpoint_view(self, name: str, as_of: AsOf | None) -> api.GetEndpointResponse:
        return views.endpoint_view(until(await self._log.read_stream(f"endpoint/{name}"), as_of))

    async def _usable_model(self, name: str, field: str) -> Model:
        found = await self.model(name)
        refuse_retired(found.retired, f"model {name!r}", field)
        return found.model

    async def _request(
        self, request_id: str, saga: Saga, decide: Callable[[endpoints.EndpointAggregate], Sequence[Message]]
    ) -> tuple[str, int]:
        return saga.saga_id, (await self._decide(saga.endpoint, request_id, decide)).position

    async def _decide(
        self,
        endpoint: str,
        request_id: str,
        decide: Callable[[endpoints.EndpointAggregate], Sequence[Message]],
    ) -> Outcome[endpoints.EndpointAggregate]:
        try:
            return await self._endpoints.execute(endpoint, request_id=request_id, decide=decide)
        except endpoints.EndpointUnknown:
            # The state of what never was does not know its name.
            raise _unknown(endpoint) from None


def _unknown(endpoint: str) -> endpoints.EndpointUnknown:
    return endpoints.EndpointUnknown(f"endpoint {endpoint!r} was not declared; `lineal status` lists those that are")
