"""Scorings: asked for, then completed or failed, once."""

from collections.abc import Sequence

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import RuleViolated
from lineal.api.serving.v1.events_pb2 import ScoringAdvanced, ScoringCompleted, ScoringFailed, ScoringRequested
from lineal.api.serving.v1.scoring_pb2 import Scoring, ScoringPlan, ScoringState

_RUNNING = ScoringState.SCORING_STATE_RUNNING


class ScoringEnded(RuleViolated):
    """A scoring ends once."""


def request(scoring: Scoring, *, scoring_id: str, plan: ScoringPlan) -> Sequence[Message]:
    """Ask for a scoring."""
    return [] if scoring.scoring_id else [ScoringRequested(scoring_id=scoring_id, plan=plan)]


def advance(scoring: Scoring, *, stage: str, done: int = 0, total: int = 0) -> Sequence[Message]:
    """Say how far a scoring is. Raises ScoringEnded."""
    still_running(scoring)
    return [ScoringAdvanced(scoring_id=scoring.scoring_id, stage=stage, done=done, total=total)]


def complete(scoring: Scoring, completed: ScoringCompleted) -> Sequence[Message]:
    """End a scoring with a result. Raises ScoringEnded."""
    if scoring.state == ScoringState.SCORING_STATE_COMPLETED:
        return []
    still_running(scoring)
    return [completed]


def fail(scoring: Scoring, *, failure: str) -> Sequence[Message]:
    """End a scoring without a result. Raises ScoringEnded."""
    if scoring.state == ScoringState.SCORING_STATE_FAILED:
        return []
    still_running(scoring)
    return [ScoringFailed(scoring_id=scoring.scoring_id, failure=failure)]


def still_running(scoring: Scoring) -> None:
    """Raise ScoringEnded unless a scoring is under way."""
    if scoring.state != _RUNNING:
        ended = f"failed: {scoring.failure}" if scoring.failure else "completed"
        raise ScoringEnded(f"scoring {scoring.scoring_id} has {ended}; ask for another one")


def evolve(scoring: Scoring, event: Message) -> Scoring:
    """Apply one event."""
    changed = Scoring()
    changed.CopyFrom(scoring)
    match event:
        case ScoringRequested(scoring_id=scoring_id, plan=plan):
            changed.MergeFrom(Scoring(scoring_id=scoring_id, plan=plan, state=_RUNNING, stage="waiting"))
        case ScoringAdvanced(stage=stage, done=done, total=total):
            changed.stage, changed.done, changed.total = stage, done, total
        case ScoringCompleted(result=result):
            changed.state = ScoringState.SCORING_STATE_COMPLETED
            changed.result.CopyFrom(result)
        case ScoringFailed(failure=failure):
            changed.state, changed.failure = ScoringState.SCORING_STATE_FAILED, failure
    return changed


decider = Decider(Scoring(), evolve)
