"""What goes between the workflow Score, its activities and the bridge."""

from dataclasses import dataclass

from workflows.messages import Activity, Named, Origin, Position


@dataclass(frozen=True)
class ScoreInput:
    """Which scoring is to be carried out."""

    origin: Origin
    scoring_id: str


@dataclass(frozen=True)
class ScoringView:
    """What a scoring scores; `ended` is empty while it is under way, `feature_set` where nothing is to be computed.

    `position` is the log position up to which rows of other datasets count; times are RFC 3339, empty is no limit.
    """

    ended: str
    feature_set: str
    feature_set_version: str
    position: int
    dataset: str
    snapshot: str
    start_time: str
    end_time: str


@dataclass(frozen=True)
class ScoringStage:
    """What is being done for a scoring, or why it has no result."""

    origin: Origin
    request_id: str
    scoring_id: str
    text: str


@dataclass(frozen=True)
class RunScoring:
    """A scoring whose rows are to be scored; the training set has their features, empty where none are computed."""

    origin: Origin
    request_id: str
    scoring_id: str
    training_set: str


@dataclass(frozen=True)
class Scored:
    """What a scoring came to, in words."""

    finding: str


READ_SCORING = Activity[Named, ScoringView]("read_scoring", ScoringView)
ADVANCE_SCORING = Activity[ScoringStage, Position]("advance_scoring", Position)
RUN_SCORING = Activity[RunScoring, Scored]("run_scoring", Scored)
FAIL_SCORING = Activity[ScoringStage, Position]("fail_scoring", Position)
