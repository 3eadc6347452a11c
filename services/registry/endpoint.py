"""Endpoints: their arms, and the one saga that may be changing them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import Conflict, FieldViolation, InvalidArgument, NotFound, RuleViolated
from chassis.retirement import refuse_retired
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint, Saga, SagaKind, SagaState
from lineal.api.registry.v1.events_pb2 import (
    ArmsChanged,
    EndpointRegistered,
    EndpointResumed,
    EndpointRetired,
    EndpointSuspended,
    SagaAdvanced,
    SagaApproved,
    SagaArchived,
    SagaFinished,
    SagaRejected,
    SagaRequested,
)
from lineal.api.registry.v1.model_pb2 import RetrainPolicy
from lineal.defaults import endpoint_with_defaults
from services.registry.names import check_name
from services.registry.policies import check_fallback, check_limits, check_monitoring, check_release

CHAMPION = ArmRole.ARM_ROLE_CHAMPION
CHALLENGER = ArmRole.ARM_ROLE_CHALLENGER
SHADOW = ArmRole.ARM_ROLE_SHADOW


class EndpointInvalid(InvalidArgument):
    """The declaration of an endpoint is wrong."""


class EndpointUnknown(NotFound):
    """No endpoint of that name was declared."""


class EndpointModelFixed(RuleViolated):
    """An endpoint cannot change its model."""


class ArmsInvalid(InvalidArgument):
    """The arms do not fit together."""


class GenerationPassed(Conflict):
    """The arms have changed since the caller read them."""


class SagaUnderWay(RuleViolated):
    """An endpoint has one active saga at most."""


class SagaNotActive(RuleViolated):
    """The saga is not the one under way."""


class RetrainTooSoon(RuleViolated):
    """An alarm asks for a retrain within the cooldown."""


class NoPreviousChampion(RuleViolated):
    """There is no champion to bring back."""


@dataclass(frozen=True)
class EndpointAggregate:
    """An endpoint as its stream tells."""

    endpoint: Endpoint | None = None
    generation: int = 0
    arms: tuple[Arm, ...] = ()
    # Former champions, oldest first; what a rollback takes from the end.
    former_champions: tuple[str, ...] = ()
    active: Saga | None = None
    # A rollback that waits until the active saga has undone itself.
    queued: Saga | None = None
    last_training_end: datetime | None = None
    finished: frozenset[str] = frozenset()
    retired: bool = False
    suspended: bool = False

    @property
    def champion(self) -> str:
        """Digest of the champion, empty without one."""
        return next((arm.bundle_digest for arm in self.arms if arm.role == CHAMPION), "")


def register(state: EndpointAggregate, endpoint: Endpoint) -> Sequence[Message]:
    """Declare an endpoint; the same declaration again changes nothing, unless it is retired.

    Raises EndpointInvalid, EndpointModelFixed.
    """
    endpoint = endpoint_with_defaults(endpoint)
    violations = [
        *check_name("endpoint.name", endpoint.name),
        *check_release(endpoint),
        *check_monitoring(endpoint),
        *check_fallback(endpoint),
        *check_limits(endpoint),
    ]
    if violations:
        raise EndpointInvalid(f"endpoint {endpoint.name!r} cannot be declared so", violations)
    if state.endpoint == endpoint and not state.retired:
        return []
    if state.endpoint is not None and state.endpoint.model != endpoint.model:
        raise EndpointModelFixed(
            f"endpoint {endpoint.name!r} serves model {state.endpoint.model!r}; declare another endpoint for "
            f"{endpoint.model!r}"
        )
    return [EndpointRegistered(endpoint=endpoint)]


def retire(state: EndpointAggregate, *, reason: str) -> Sequence[Message]:
    """Retire an endpoint; nothing when it is retired. Its arms keep serving. Raises EndpointUnknown, SagaUnderWay."""
    if state.retired:
        return []
    return [EndpointRetired(endpoint=_free(state).name, reason=reason)]


def suspend(state: EndpointAggregate, suspended: bool, *, reason: str) -> Sequence[Message]:
    """Stop an endpoint's answers, or let it answer again, also while a saga is under way. Raises EndpointUnknown."""
    name = _known(state).name
    if state.suspended == suspended:
        return []
    return [
        EndpointSuspended(endpoint=name, reason=reason) if suspended else EndpointResumed(endpoint=name, reason=reason)
    ]


def change_arms(
    state: EndpointAggregate, *, generation: int, arms: Sequence[Arm], saga_id: str, reason: str
) -> Sequence[Message]:
    """Replace the arms.

    Raises EndpointUnknown, GenerationPassed, SagaUnderWay, SagaNotActive, ArmsInvalid.
    """
    endpoint = _known(state)
    if generation != state.generation:
        raise GenerationPassed(
            f"the arms of {endpoint.name!r} are at generation {state.generation}, not {generation}; read them again"
        )
    if saga_id:
        _active(state, saga_id)
    elif state.active is not None:
        raise SagaUnderWay(f"{_title(state.active)} is under way on {endpoint.name!r}; only it may change the arms")
    check_arms(arms)
    if sorted(map(_key, arms)) == sorted(map(_key, state.arms)):
        return []
    return [
        ArmsChanged(endpoint=endpoint.name, generation=state.generation + 1, arms=arms, saga_id=saga_id, reason=reason)
    ]


def check_arms(arms: Sequence[Arm]) -> None:
    """Raise ArmsInvalid unless there is one champion, no bundle twice, and shares that leave the champion something."""
    violations = []
    champions = [arm for arm in arms if arm.role == CHAMPION]
    if len(champions) != 1:
        violations.append(FieldViolation("arms", f"there must be exactly one champion, there are {len(champions)}"))
    if len({arm.bundle_digest for arm in arms}) != len(arms):
        violations.append(FieldViolation("arms", "a bundle may have one role only"))
    for index, arm in enumerate(arms):
        if arm.role not in (CHAMPION, CHALLENGER, SHADOW):
            violations.append(FieldViolation(f"arms[{index}].role", "set CHAMPION, CHALLENGER or SHADOW"))
        if arm.role == CHALLENGER and not 0 < arm.share < 1:
            violations.append(FieldViolation(f"arms[{index}].share", "a challenger's share lies between 0 and 1"))
        if arm.role != CHALLENGER and arm.share:
            violations.append(FieldViolation(f"arms[{index}].share", "only a challenger has a share"))
    if sum(arm.share for arm in arms) >= 1:
        violations.append(FieldViolation("arms", "the challengers' shares together must stay below 1"))
    if violations:
        raise ArmsInvalid("the arms do not fit together", violations)


def request_retrain(state: EndpointAggregate, saga: Saga, policy: RetrainPolicy) -> Sequence[Message]:
    """Ask for a retrain.

    Raises EndpointUnknown, SagaUnderWay, Retired, RetrainTooSoon for an alarm within the policy's cooldown.
    """
    endpoint = _free(state)
    refuse_retired(state.retired, f"endpoint {endpoint.name!r}", "endpoint")
    if saga.alarm_id and not policy.on_alarm:
        raise RetrainTooSoon("the model's policy does not retrain on alarms")
    if saga.alarm_id and state.last_training_end is not None and saga.HasField("training_end_time"):
        ready = state.last_training_end + policy.cooldown.ToTimedelta()
        asked = _moment(saga)
        if asked is not None and asked < ready:
            raise RetrainTooSoon(
                f"the last training range ended at {state.last_training_end:%Y-%m-%d}, "
                f"the cooldown lasts until {ready:%Y-%m-%d}"
            )
    return [SagaRequested(saga=saga)]


def request_release(state: EndpointAggregate, saga: Saga) -> Sequence[Message]:
    """Ask for a release.

    Raises EndpointUnknown, SagaUnderWay, Retired, ArmsInvalid when the bundle is the champion already.
    """
    endpoint = _free(state)
    refuse_retired(state.retired, f"endpoint {endpoint.name!r}", "endpoint")
    if saga.bundle_digest == state.champion:
        raise ArmsInvalid(f"bundle {saga.bundle_digest[:12]} is the champion of {endpoint.name!r} already")
    return [SagaRequested(saga=saga)]


def request_rollback(state: EndpointAggregate, saga: Saga) -> Sequence[Message]:
    """Ask for the previous champion; an active saga of another kind is told to undo itself first.

    Raises EndpointUnknown, SagaUnderWay when a rollback is under way, NoPreviousChampion.
    """
    endpoint = _known(state)
    for other in (state.active, state.queued):
        if other is not None and other.kind == SagaKind.SAGA_KIND_ROLLBACK:
            raise SagaUnderWay(f"{_title(other)} is under way on {endpoint.name!r} already")
    if not state.former_champions:
        raise NoPreviousChampion(f"endpoint {endpoint.name!r} has had no other champion")
    asked: list[Message] = []
    if state.active is not None:
        asked.append(
            SagaRejected(
                endpoint=endpoint.name, saga_id=state.active.saga_id, reason=f"a rollback was asked for: {saga.reason}"
            )
        )
    saga.bundle_digest = state.former_champions[-1]
    return [*asked, SagaRequested(saga=saga)]


def approve_saga(state: EndpointAggregate, *, saga_id: str, reason: str) -> Sequence[Message]:
    """Let the active saga go on. Raises EndpointUnknown, SagaNotActive."""
    endpoint = _known(state)
    _active(state, saga_id)
    return [SagaApproved(endpoint=endpoint.name, saga_id=saga_id, reason=reason)]


def reject_saga(state: EndpointAggregate, *, saga_id: str, reason: str) -> Sequence[Message]:
    """Stop the active saga. Raises EndpointUnknown, SagaNotActive."""
    endpoint = _known(state)
    _active(state, saga_id)
    return [SagaRejected(endpoint=endpoint.name, saga_id=saga_id, reason=reason)]


def advance_saga(
    state: EndpointAggregate, *, saga_id: str, step: str, finding: str, evidence_digest: str, bundle_digest: str
) -> Sequence[Message]:
    """Record a step of the active saga. Raises EndpointUnknown, SagaNotActive."""
    endpoint = _known(state)
    _active(state, saga_id)
    return [
        SagaAdvanced(
            endpoint=endpoint.name,
            saga_id=saga_id,
            step=step,
            finding=finding,
            evidence_digest=evidence_digest,
            bundle_digest=bundle_digest,
        )
    ]


def finish_saga(
    state: EndpointAggregate, *, saga_id: str, end: "SagaState.ValueType", outcome: str
) -> Sequence[Message]:
    """Record the end of a saga. Raises EndpointUnknown, SagaNotActive, EndpointInvalid."""
    endpoint = _known(state)
    if end not in (SagaState.SAGA_STATE_COMPLETED, SagaState.SAGA_STATE_COMPENSATED):
        raise EndpointInvalid(
            "a saga ends completed or compensated", [FieldViolation("state", "set COMPLETED or COMPENSATED")]
        )
    if saga_id in state.finished:
        return []
    _active(state, saga_id)
    return [SagaFinished(endpoint=endpoint.name, saga_id=saga_id, state=end, outcome=outcome)]


def archive_saga(state: EndpointAggregate, *, saga_id: str, history_digest: str) -> Sequence[Message]:
    """Record where the Temporal history of an ended saga lies. Raises EndpointUnknown, SagaNotActive."""
    endpoint = _known(state)
    if saga_id not in state.finished:
        raise SagaNotActive(f"saga {saga_id!r} has not ended on {endpoint.name!r}; a history is archived after the end")
    return [SagaArchived(endpoint=endpoint.name, saga_id=saga_id, history_digest=history_digest)]


def evolve(state: EndpointAggregate, event: Message) -> EndpointAggregate:
    """Apply one event."""
    match event:
        case EndpointRegistered():
            return replace(state, endpoint=event.endpoint, retired=False)
        case EndpointRetired():
            return replace(state, retired=True)
        case EndpointSuspended() | EndpointResumed():
            return replace(state, suspended=isinstance(event, EndpointSuspended))
        case ArmsChanged():
            return _with_arms(state, event)
        case SagaRequested() if state.active is not None:
            return replace(state, queued=event.saga)
        case SagaRequested():
            return replace(state, active=event.saga, last_training_end=_moment(event.saga) or state.last_training_end)
        case SagaFinished():
            return replace(state, active=state.queued, queued=None, finished=state.finished | {event.saga_id})
    return state


decider = Decider(EndpointAggregate(), evolve)


def _with_arms(state: EndpointAggregate, event: ArmsChanged) -> EndpointAggregate:
    changed = replace(state, generation=event.generation, arms=tuple(event.arms))
    if not state.champion or changed.champion == state.champion:
        return changed
    if state.former_champions and changed.champion == state.former_champions[-1]:
        return replace(changed, former_champions=state.former_champions[:-1])
    return replace(changed, former_champions=(*state.former_champions, state.champion))


def _known(state: EndpointAggregate) -> Endpoint:
    if state.endpoint is None:
        raise EndpointUnknown("no endpoint of that name was declared; `lineal status` lists those that were")
    return state.endpoint


def _free(state: EndpointAggregate) -> Endpoint:
    endpoint = _known(state)
    if state.active is not None:
        raise SagaUnderWay(
            f"{_title(state.active)} is under way on {endpoint.name!r}; "
            "wait for its end, or stop it with `lineal reject`"
        )
    return endpoint


def _active(state: EndpointAggregate, saga_id: str) -> None:
    if state.active is None or state.active.saga_id != saga_id:
        raise SagaNotActive(f"saga {saga_id!r} is not under way on this endpoint")


def _title(saga: Saga) -> str:
    return f"{SagaKind.Name(saga.kind).removeprefix('SAGA_KIND_').lower()} {saga.saga_id}"


def _moment(saga: Saga) -> datetime | None:
    if saga.kind != SagaKind.SAGA_KIND_RETRAIN or not saga.HasField("training_end_time"):
        return None
    # Naive UTC throughout: only compared with itself.
    return saga.training_end_time.ToDatetime()


def _key(arm: Arm) -> tuple[int, str, float]:
    return arm.role, arm.bundle_digest, arm.share
