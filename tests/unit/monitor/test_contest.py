from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import NotFound, RuleViolated
from lineal.api.monitor.v1.contest_pb2 import ContestState
from lineal.api.monitor.v1.events_pb2 import ContestResolved, PredictionContested
from services.monitor import contest as contests
from services.monitor.contest import Contested

OPEN, UPHELD, OVERRIDDEN = (
    ContestState.CONTEST_STATE_OPEN,
    ContestState.CONTEST_STATE_UPHELD,
    ContestState.CONTEST_STATE_OVERRIDDEN,
)
PREDICTION = "5a1d/0"


def contested(reason: str = "my income is not what it says") -> PredictionContested:
    return PredictionContested(prediction_id=PREDICTION, reason=reason, evidence_digest="e" * 64)


def resolve(state: Contested, number: int = 1, who: str = "person:grace", **fields: Any) -> list[Any]:
    values: dict[str, Any] = {
        "contest_id": f"{PREDICTION}/{number}",
        "resolution": OVERRIDDEN,
        "reason": "the payslip is right",
    }
    event = ContestResolved(**(values | fields))
    return list(contests.resolve(state, event, who=who, contested_by="person:joan", answerable={"person:ada", "ada"}))


def after(*events: Any) -> Contested:
    state = Contested()
    for event in events:
        state = contests.evolve(state, event)
    return state


def test_a_prediction_is_contested_with_what_was_frozen() -> None:
    (event,) = contests.contest(Contested(), contested())
    assert isinstance(event, PredictionContested)
    assert (event.contest_id, event.evidence_digest) == (f"{PREDICTION}/1", "e" * 64)
    assert after(event).states == (OPEN,)


def test_contesting_twice_changes_nothing_while_the_first_contest_is_open() -> None:
    assert contests.contest(Contested((OPEN,)), contested()) == []
    assert contests.contest(Contested((UPHELD, OPEN)), contested()) == []


def test_another_contest_follows_a_resolved_one() -> None:
    (event,) = contests.contest(Contested((UPHELD,)), contested())
    assert isinstance(event, PredictionContested)
    assert event.contest_id == f"{PREDICTION}/2"
    assert after(event).states == (OPEN,)


@pytest.mark.parametrize("resolution", [UPHELD, OVERRIDDEN])
def test_a_person_without_a_part_in_it_resolves_it(resolution: ContestState.ValueType) -> None:
    (event,) = resolve(Contested((UPHELD, OPEN)), 2, resolution=resolution)
    assert contests.evolve(Contested((UPHELD, OPEN)), event).states == (UPHELD, resolution)


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("person:joan", "joan contested the decision; another person"),
        ("person:ada", "ada declared or owns the model; another person"),
        ("service:bridge", "is no person"),
        ("saga:retrain", "is no person"),
        ("unknown", "is no person"),
    ],
)
def test_who_has_a_part_in_it_may_not_resolve_it(who: str, says: str) -> None:
    with pytest.raises(contests.ReviewerNotApart, match=says):
        resolve(Contested((OPEN,)), who=who)


@pytest.mark.parametrize("stands", [UPHELD, OVERRIDDEN])
def test_a_contest_is_resolved_once(stands: ContestState.ValueType) -> None:
    with pytest.raises(contests.ContestClosed, match="already; contest the prediction again"):
        resolve(Contested((stands, OPEN)), 1)


@pytest.mark.parametrize("name", ["", "x", f"{PREDICTION}/2", f"{PREDICTION}/0", f"{PREDICTION}/-1", f"{PREDICTION}/²"])
def test_an_unknown_contest_is_not_found(name: str) -> None:
    with pytest.raises(contests.ContestUnknown, match="`lineal contests` lists"):
        resolve(Contested((OPEN,)), contest_id=name)


@pytest.mark.parametrize("reason", ["", "  "])
def test_each_needs_a_reason(reason: str) -> None:
    for attempt in (
        lambda: contests.contest(Contested(), contested(reason)),
        lambda: resolve(Contested((OPEN,)), reason=reason),
    ):
        with pytest.raises(contests.ReasonMissing) as caught:
            attempt()
        assert [violation.field for violation in caught.value.violations] == ["reason"]


@pytest.mark.parametrize("resolution", [ContestState.CONTEST_STATE_UNSPECIFIED, OPEN, 7])
def test_a_contest_is_upheld_or_overridden(resolution: Any) -> None:
    with pytest.raises(contests.ResolutionMissing, match="upheld or overridden"):
        resolve(Contested((OPEN,)), resolution=resolution)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from([UPHELD, OVERRIDDEN]))))
def test_whatever_is_asked_one_contest_is_open_at_most_and_none_is_resolved_twice(steps: list[Any]) -> None:
    state, resolved = Contested(), set[str]()
    for contesting, number, resolution in steps:
        try:
            events = (
                contests.contest(state, contested()) if contesting else resolve(state, number, resolution=resolution)
            )
        except (NotFound, RuleViolated):
            continue
        for event in events:
            if isinstance(event, ContestResolved):
                assert event.contest_id not in resolved
                resolved.add(event.contest_id)
            state = contests.evolve(state, event)
        assert OPEN not in state.states[:-1]
        assert len(resolved) == sum(each != OPEN for each in state.states)


def test_ids_are_taken_apart_as_they_are_made() -> None:
    name = contests.contest_id(PREDICTION, 12)
    assert (contests.prediction_of(name), contests.number_of(name)) == (PREDICTION, 12)
