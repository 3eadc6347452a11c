"""What readers see of bundles, endpoints and sagas, folded from events with their times and actors."""

from collections.abc import Iterable

from chassis.events import Event
from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaState, SagaStep
from lineal.api.registry.v1.events_pb2 import (
    ArmsChanged,
    BundleApproved,
    BundleRegistered,
    BundleRejected,
    BundleSigned,
    EndpointResumed,
    EndpointSuspended,
    GatesEvaluated,
    SagaAdvanced,
    SagaArchived,
    SagaFinished,
    SagaRequested,
)
from lineal.api.registry.v1.model_pb2 import Bundle
from lineal.api.registry.v1.registry_service_pb2 import GetEndpointResponse
from services.registry import bundle as bundles
from services.registry import endpoint as endpoints
from services.registry import model as models
from services.registry.past import Champions


def bundle_view(events: Iterable[Event]) -> Bundle:
    """Fold a bundle's stream."""
    view = Bundle()
    standing = bundles.decider.initial
    for event in events:
        if event.message is None:
            continue
        standing = bundles.evolve(standing, event.message)
        evolve_bundle(view, event)
        view.state = standing.state
    return view


def evolve_bundle(view: Bundle, event: Event) -> None:
    """Apply one event to a bundle as readers see it, all but its state."""
    view.position = event.position
    match event.message:
        case BundleRegistered() as registered:
            view.digest = registered.bundle_digest
            view.model = registered.model
            view.run_id = registered.run_id
            view.training_set_digest = registered.training_set_digest
            view.register_time.FromDatetime(event.recorded_time)
        case BundleSigned() as signed:
            view.signature_digest = signed.signature_digest
        case GatesEvaluated() as evaluated:
            view.evaluation_digest = evaluated.evaluation_digest
            del view.gates[:]
            view.gates.extend(evaluated.results)
        case BundleApproved() | BundleRejected() as decided:
            view.decided_by = event.actor
            view.decision_reason = decided.reason


def endpoint_view(events: Iterable[Event]) -> GetEndpointResponse:
    """Fold an endpoint's stream: its arms, who changed them, when and why, and its active saga."""
    view = GetEndpointResponse()
    state = endpoints.decider.initial
    champions = Champions()
    for event in events:
        if event.message is None:
            continue
        champions.see(event)
        state = endpoints.evolve(state, event.message)
        if isinstance(event.message, ArmsChanged):
            view.arms_reason = event.message.reason
            view.arms_actor = event.actor
            view.arms_change_time.FromDatetime(event.recorded_time)
            view.arms_position = event.position
        elif isinstance(event.message, EndpointSuspended) and not view.suspension:
            view.suspension = f"{event.actor}: {event.message.reason}"
        elif isinstance(event.message, EndpointResumed):
            view.suspension = ""
    if champions.current is not None:
        view.champion.CopyFrom(champions.current)
    if state.endpoint is not None:
        view.endpoint.CopyFrom(state.endpoint)
    view.retired = state.retired
    view.generation = state.generation
    view.arms.extend(state.arms)
    view.active_saga_id = state.active.saga_id if state.active else ""
    view.previous_champion_digest = state.former_champions[-1] if state.former_champions else ""
    return view


def model_state(events: Iterable[Event]) -> models.ModelState:
    """Fold a model's stream."""
    state = models.decider.initial
    for event in events:
        if event.message is not None:
            state = models.evolve(state, event.message)
    return state


def saga_view(events: Iterable[Event], saga_id: str) -> Saga | None:
    """Fold what the stream of an endpoint says of one saga; None before it was asked for."""
    saga: Saga | None = None
    for event in events:
        match event.message:
            case SagaRequested() as requested if requested.saga.saga_id == saga_id:
                saga = requested_saga(event, requested)
            case SagaAdvanced() | SagaFinished() | SagaArchived() as later if saga and later.saga_id == saga_id:
                evolve_saga(saga, event)
    return saga


def requested_saga(event: Event, requested: SagaRequested) -> Saga:
    """Return a saga as it was asked for."""
    saga = Saga()
    saga.CopyFrom(requested.saga)
    saga.state = SagaState.SAGA_STATE_ACTIVE
    saga.requested_by = event.actor
    saga.request_time.FromDatetime(event.recorded_time)
    return saga


def evolve_saga(saga: Saga, event: Event) -> None:
    """Apply a later event to a saga as readers see it."""
    match event.message:
        case SagaAdvanced() as advanced:
            step = SagaStep(
                step=advanced.step,
                finding=advanced.finding,
                evidence_digest=advanced.evidence_digest,
                position=event.position,
            )
            step.report_time.FromDatetime(event.recorded_time)
            saga.steps.append(step)
            saga.bundle_digest = advanced.bundle_digest or saga.bundle_digest
        case SagaFinished() as finished:
            saga.state = finished.state
            saga.outcome = finished.outcome
            saga.end_time.FromDatetime(event.recorded_time)
        case SagaArchived() as archived:
            saga.history_digest = archived.history_digest
