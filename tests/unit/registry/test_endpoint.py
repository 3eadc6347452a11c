from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from chassis.retirement import Retired
from lineal.api.registry.v1.endpoint_pb2 import Arm, CallerLimits, Endpoint, Fallback, Saga, SagaKind, SagaState
from lineal.api.registry.v1.events_pb2 import ArmsChanged, SagaRejected, SagaRequested
from lineal.api.registry.v1.model_pb2 import RetrainPolicy
from services.registry import endpoint as endpoints
from services.registry.endpoint import EndpointAggregate

A, B, C = "a" * 64, "b" * 64, "c" * 64


def fold(state: EndpointAggregate, *commands: list[Message]) -> EndpointAggregate:
    for events in commands:
        for event in events:
            state = endpoints.evolve(state, event)
    return state


def declared() -> EndpointAggregate:
    return fold(EndpointAggregate(), list(endpoints.register(EndpointAggregate(), Endpoint(name="delay", model="m"))))


def with_arms(state: EndpointAggregate, *arms: Arm, saga_id: str = "") -> EndpointAggregate:
    return fold(
        state,
        list(endpoints.change_arms(state, generation=state.generation, arms=arms, saga_id=saga_id, reason="test")),
    )


def champion(digest: str) -> Arm:
    return Arm(bundle_digest=digest, role=endpoints.CHAMPION)


def challenger(digest: str, share: float) -> Arm:
    return Arm(bundle_digest=digest, role=endpoints.CHALLENGER, share=share)


def saga(kind: "SagaKind.ValueType", name: str) -> Saga:
    return Saga(saga_id=name, endpoint="delay", kind=kind, bundle_digest=C)


def test_defaults_of_policies_are_filled_in() -> None:
    endpoint = declared().endpoint
    assert endpoint is not None
    assert list(endpoint.release.canary_shares) == [0.05, 0.25, 0.5]
    assert endpoint.monitoring.period.seconds == 7 * 86_400


def test_declaring_the_same_again_changes_nothing() -> None:
    state = declared()
    assert endpoints.register(state, Endpoint(name="delay", model="m")) == []


def test_an_endpoint_is_suspended_once_and_resumed_once_also_while_a_saga_is_under_way() -> None:
    state = with_arms(declared(), champion(A))
    state = fold(state, list(endpoints.request_release(state, saga(SagaKind.SAGA_KIND_RELEASE, "s"))))
    suspended = fold(state, list(endpoints.suspend(state, True, reason="wrong answers")))
    assert suspended.suspended
    assert endpoints.suspend(suspended, True, reason="again") == []
    assert not fold(suspended, list(endpoints.suspend(suspended, False, reason="mended"))).suspended
    assert endpoints.suspend(state, False, reason="answers already") == []


def test_bad_policies_are_named_by_field() -> None:
    endpoint = Endpoint(name="Delay!", model="m")
    endpoint.release.canary_shares.extend([0.5, 0.25])
    endpoint.release.alpha = 0.9
    with pytest.raises(endpoints.EndpointInvalid) as error:
        endpoints.register(EndpointAggregate(), endpoint)
    assert {violation.field for violation in error.value.violations} == {
        "endpoint.name",
        "endpoint.release.canary_shares",
        "endpoint.release.alpha",
    }


def test_arms_count_generations() -> None:
    state = with_arms(declared(), champion(A))
    state = with_arms(state, champion(A), challenger(B, 0.05))
    assert (state.generation, state.champion) == (2, A)


def test_the_same_arms_again_are_no_event() -> None:
    state = with_arms(declared(), champion(A))
    assert endpoints.change_arms(state, generation=1, arms=[champion(A)], saga_id="", reason="") == []


@pytest.mark.parametrize(
    "arms",
    [
        [],
        [champion(A), champion(B)],
        [champion(A), challenger(A, 0.1)],
        [champion(A), challenger(B, 0.6), challenger(C, 0.4)],
        [champion(A), challenger(B, 0)],
        [champion(A), Arm(bundle_digest=B)],
    ],
)
def test_arms_that_do_not_fit_are_refused(arms: list[Arm]) -> None:
    with pytest.raises(endpoints.ArmsInvalid):
        endpoints.change_arms(declared(), generation=0, arms=arms, saga_id="", reason="")


def test_arms_of_a_passed_generation_are_refused() -> None:
    state = with_arms(declared(), champion(A))
    with pytest.raises(endpoints.GenerationPassed):
        endpoints.change_arms(state, generation=0, arms=[champion(B)], saga_id="", reason="")


def test_only_the_active_saga_changes_arms() -> None:
    state = with_arms(declared(), champion(A))
    state = fold(state, list(endpoints.request_release(state, saga(SagaKind.SAGA_KIND_RELEASE, "r1"))))
    with pytest.raises(endpoints.SagaUnderWay):
        with_arms(state, champion(B))
    with pytest.raises(endpoints.SagaNotActive):
        with_arms(state, champion(B), saga_id="r2")
    assert with_arms(state, champion(A), challenger(B, 0.05), saga_id="r1").generation == 2


def test_one_saga_at_a_time() -> None:
    state = declared()
    state = fold(state, list(endpoints.request_release(state, saga(SagaKind.SAGA_KIND_RELEASE, "r1"))))
    with pytest.raises(endpoints.SagaUnderWay):
        endpoints.request_release(state, saga(SagaKind.SAGA_KIND_RELEASE, "r2"))
    end = endpoints.finish_saga(state, saga_id="r1", end=SagaState.SAGA_STATE_COMPLETED, outcome="")
    state = fold(state, list(end))
    assert endpoints.request_release(state, saga(SagaKind.SAGA_KIND_RELEASE, "r2"))


def test_a_rollback_stops_the_active_saga_and_waits_for_its_end() -> None:
    state = with_arms(with_arms(declared(), champion(A)), champion(B))
    state = fold(state, list(endpoints.request_release(state, saga(SagaKind.SAGA_KIND_RELEASE, "r1"))))
    asked = list(endpoints.request_rollback(state, saga(SagaKind.SAGA_KIND_ROLLBACK, "back")))
    assert [type(event) for event in asked] == [SagaRejected, SagaRequested]
    assert asked[1].saga.bundle_digest == A  # type: ignore[attr-defined]
    state = fold(state, asked)
    assert state.active is not None
    assert state.active.saga_id == "r1"
    end = endpoints.finish_saga(state, saga_id="r1", end=SagaState.SAGA_STATE_COMPENSATED, outcome="")
    state = fold(state, list(end))
    assert state.active is not None
    assert state.active.saga_id == "back"


def test_a_rollback_goes_back_one_champion_at_a_time() -> None:
    state = with_arms(with_arms(with_arms(declared(), champion(A)), champion(B)), champion(C))
    assert state.former_champions == (A, B)
    state = with_arms(state, champion(B))
    assert state.former_champions == (A,)


def test_without_a_former_champion_there_is_no_rollback() -> None:
    state = with_arms(declared(), champion(A))
    with pytest.raises(endpoints.NoPreviousChampion):
        endpoints.request_rollback(state, saga(SagaKind.SAGA_KIND_ROLLBACK, "back"))


def test_an_alarm_within_the_cooldown_is_refused() -> None:
    policy = RetrainPolicy(on_alarm=True)
    policy.cooldown.FromTimedelta(timedelta(days=30))
    first = saga(SagaKind.SAGA_KIND_RETRAIN, "t1")
    first.alarm_id = "x"
    first.training_end_time.FromDatetime(datetime(2013, 5, 1, tzinfo=UTC))
    state = fold(declared(), list(endpoints.request_retrain(declared(), first, policy)))
    state = fold(
        state,
        list(endpoints.finish_saga(state, saga_id="t1", end=SagaState.SAGA_STATE_COMPLETED, outcome="")),
    )
    second = saga(SagaKind.SAGA_KIND_RETRAIN, "t2")
    second.alarm_id = "y"
    second.training_end_time.FromDatetime(datetime(2013, 5, 15, tzinfo=UTC))
    with pytest.raises(endpoints.RetrainTooSoon):
        endpoints.request_retrain(state, second, policy)
    second.training_end_time.FromDatetime(datetime(2013, 6, 1, tzinfo=UTC))
    assert isinstance(endpoints.request_retrain(state, second, policy)[0], SagaRequested)


def test_events_carry_the_whole_arms() -> None:
    state = declared()
    (event,) = endpoints.change_arms(state, generation=0, arms=[champion(A)], saga_id="", reason="first")
    assert isinstance(event, ArmsChanged)
    assert [arm.bundle_digest for arm in event.arms] == [A]


def test_a_retired_endpoint_takes_no_release_or_retrain_but_can_be_rolled_back() -> None:
    state = with_arms(with_arms(declared(), champion(A)), champion(B))
    state = fold(state, list(endpoints.retire(state, reason="closed")))
    assert endpoints.retire(state, reason="again") == []
    with pytest.raises(Retired, match="endpoint: endpoint 'delay' is retired"):
        endpoints.request_release(state, saga(SagaKind.SAGA_KIND_RELEASE, "s"))
    with pytest.raises(Retired, match="lineal apply"):
        endpoints.request_retrain(state, saga(SagaKind.SAGA_KIND_RETRAIN, "s"), RetrainPolicy())
    assert endpoints.request_rollback(state, saga(SagaKind.SAGA_KIND_ROLLBACK, "s"))
    back = fold(state, list(endpoints.register(state, Endpoint(name="delay", model="m"))))
    assert (back.retired, back.champion) == (False, B)


def test_an_endpoint_is_not_retired_under_a_saga() -> None:
    state = with_arms(declared(), champion(A))
    busy = fold(state, list(endpoints.request_release(state, saga(SagaKind.SAGA_KIND_RELEASE, "s"))))
    with pytest.raises(endpoints.SagaUnderWay):
        endpoints.retire(busy, reason="closed")


@pytest.mark.parametrize(
    ("fallback", "field"),
    [
        (Fallback(score=0.5), "reason"),
        (Fallback(score=float("nan"), reason="safe"), "score"),
        (Fallback(score=1.5, decision=1, reason="safe"), "score"),
        (Fallback(score=0.5, decision=2, reason="safe"), "decision"),
        (Fallback(score=0.5, decision=0, class_scores=[0.5, 0.6], reason="safe"), "class_scores"),
        (Fallback(score=0.5, class_scores=[0.5, 0.5], reason="safe"), "decision"),
        (Fallback(score=0.5, decision=2, class_scores=[0.5, 0.5], reason="safe"), "decision"),
        (Fallback(score=0.5, decision=2, class_scores=[0.2, 0.2, 0.6], reason="safe"), "score"),
        (Fallback(score=0.5, reason="safe", lookup_timeout=Duration(seconds=-1)), "lookup_timeout"),
    ],
)
def test_a_fallback_that_cannot_be_answered_is_refused(fallback: Fallback, field: str) -> None:
    with pytest.raises(endpoints.EndpointInvalid) as refused:
        endpoints.register(EndpointAggregate(), Endpoint(name="delay", model="m", fallback=fallback))
    assert [violation.field for violation in refused.value.violations] == [f"endpoint.fallback.{field}"]


@pytest.mark.parametrize(
    "fallback",
    [
        Fallback(score=-3.5, reason="the mean of last year"),
        Fallback(score=1.0, decision=1, reason="refuse unseen"),
        Fallback(score=0.6, decision=2, class_scores=[0.2, 0.2, 0.6], reason="the usual class", when_suspended=True),
    ],
)
def test_a_fallback_is_declared_with_its_defaults(fallback: Fallback) -> None:
    endpoint = Endpoint(name="delay", model="m", fallback=fallback)
    (event,) = endpoints.register(EndpointAggregate(), endpoint)
    assert event.endpoint.fallback.lookup_timeout.seconds == 1  # type: ignore[attr-defined]
    assert not declared().endpoint.HasField("fallback")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (CallerLimits(), "endpoint.limits"),
        (CallerLimits(burst_rows=5, rows_per_day=9), "endpoint.limits.burst_rows"),
    ],
)
def test_limits_that_limit_nothing_are_refused(limits: CallerLimits, field: str) -> None:
    with pytest.raises(endpoints.EndpointInvalid) as refused:
        endpoints.register(EndpointAggregate(), Endpoint(name="delay", model="m", limits=limits))
    assert [violation.field for violation in refused.value.violations] == [field]


def test_a_burst_is_a_seconds_rows_where_none_is_declared() -> None:
    endpoint = Endpoint(name="delay", model="m", limits=CallerLimits(rows_per_second=7))
    (event,) = endpoints.register(EndpointAggregate(), endpoint)
    assert event.endpoint.limits.burst_rows == 7  # type: ignore[attr-defined]
