"""Contests of a prediction: one open at a time, resolved by a person who has no part in it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import FieldViolation, InvalidArgument, NotFound, RuleViolated
from lineal.api.monitor.v1.contest_pb2 import ContestState
from lineal.api.monitor.v1.events_pb2 import ContestResolved, PredictionContested

OPEN = ContestState.CONTEST_STATE_OPEN
_RESOLUTIONS = {ContestState.CONTEST_STATE_UPHELD: "upheld", ContestState.CONTEST_STATE_OVERRIDDEN: "overridden"}


class ContestUnknown(NotFound):
    """There is no contest of that id."""


class ReasonMissing(InvalidArgument):
    """A contest or its resolution does not say why."""


class ResolutionMissing(InvalidArgument):
    """A resolution does not say whether the decision stands."""


class ContestClosed(RuleViolated):
    """A contest is resolved already."""


class ReviewerNotApart(RuleViolated):
    """Who wants to resolve a contest is no person, or has a part in it."""


@dataclass(frozen=True)
class Contested:
    """Where the contests of a prediction stand, in their order; only the last may be open."""

    states: tuple[ContestState.ValueType, ...] = ()


def contest(state: Contested, contested: PredictionContested) -> Sequence[Message]:
    """Contest a prediction, as the next of its contests; nothing while one is open. Raises ReasonMissing."""
    _check_reason(contested.reason, "say what is wrong with the decision")
    if state.states[-1:] == (OPEN,):
        return []
    event = PredictionContested()
    event.CopyFrom(contested)
    event.contest_id = contest_id(contested.prediction_id, len(state.states) + 1)
    return [event]


def resolve(
    state: Contested, resolved: ContestResolved, *, who: str, contested_by: str, answerable: Collection[str]
) -> Sequence[Message]:
    """Resolve a contest as `who`; `answerable` are those who declared or own the model.

    Raises ContestUnknown, ReasonMissing, ResolutionMissing, ContestClosed, ReviewerNotApart.
    """
    name, number = resolved.contest_id, number_of(resolved.contest_id)
    if number > len(state.states):
        raise unknown(name)
    _check_reason(resolved.reason, "say why the decision stands, or what is decided instead")
    if resolved.resolution not in _RESOLUTIONS:
        raise ResolutionMissing(
            "a contest is upheld or overridden", [FieldViolation("resolution", "give UPHELD or OVERRIDDEN")]
        )
    stands = state.states[number - 1]
    if stands != OPEN:
        raise ContestClosed(
            f"contest {name} was {_RESOLUTIONS[stands]} already; contest the prediction again to have it looked at anew"
        )
    if not who.startswith("person:"):
        raise ReviewerNotApart(f"{who} is no person; a person has to resolve contest {name}")
    if who == contested_by:
        raise ReviewerNotApart(f"{who} contested the decision; another person has to resolve contest {name}")
    if who in answerable:
        raise ReviewerNotApart(f"{who} declared or owns the model; another person has to resolve contest {name}")
    return [resolved]


def evolve(state: Contested, event: Message) -> Contested:
    """Apply one event."""
    match event:
        case PredictionContested():
            return Contested((*state.states, OPEN))
        case ContestResolved():
            return Contested((*state.states[:-1], event.resolution))
        case _:
            return state


decider = Decider(Contested(), evolve)


def contest_id(prediction_id: str, number: int) -> str:
    """Return the id of a prediction's contest; the first has the number 1."""
    return f"{prediction_id}/{number}"


def number_of(name: str) -> int:
    """Return the number of a contest within its prediction. Raises ContestUnknown."""
    number = name.rpartition("/")[2]
    if not number.isdecimal() or not number.isascii() or number.startswith("0") or len(number) > 9:
        raise unknown(name)
    return int(number)


def prediction_of(name: str) -> str:
    """Return the prediction that a contest is about."""
    return name.rpartition("/")[0]


def unknown(name: str) -> ContestUnknown:
    """Return that there is no such contest, and what to do."""
    return ContestUnknown(f"there is no contest {name[:100]!r}; `lineal contests` lists those that there are")


def _check_reason(reason: str, remedy: str) -> None:
    if not reason.strip():
        raise ReasonMissing("a contest and its resolution need a reason", [FieldViolation("reason", remedy)])
