"""What goes between workflows, activities and the bridge: small frozen dataclasses, JSON in Temporal's history."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Activity(Generic[In, Out]):
    """An activity as workflows know it: its name and what it returns."""

    name: str
    result: type[Out]


@dataclass(frozen=True)
class Origin:
    """Whose work something is, and what led to it.

    `saga_id` is also the workflow's id and the correlation id of everything it does; `causation_id` is the id of the
    event that asked; `traceparent` is the W3C trace context of that event.
    """

    saga_id: str
    endpoint: str
    causation_id: str = ""
    traceparent: str = ""


@dataclass(frozen=True)
class RetrainInput:
    """What a retrain is asked to do; times are RFC 3339, empty leaves them to the model's policy."""

    origin: Origin
    reason: str = ""
    alarm_id: str = ""
    training_start_time: str = ""
    training_end_time: str = ""
    exclude_columns: list[str] = field(default_factory=list)
    feature_set: str = ""
    approval_seconds: float = 604_800.0


@dataclass(frozen=True)
class ReleaseInput:
    """Which bundle is to become the champion; how long a person may take to decide."""

    origin: Origin
    bundle: str
    reason: str = ""
    approval_seconds: float = 604_800.0


@dataclass(frozen=True)
class RollbackInput:
    """Whose previous champion is to come back."""

    origin: Origin
    reason: str = ""


@dataclass(frozen=True)
class WatchInput:
    """Which endpoint is to be examined, or checked for parity."""

    endpoint: str


@dataclass(frozen=True)
class WatchEnd:
    """What an examination found."""

    periods: int
    alarms: list[str]
    watermark_time: str


@dataclass(frozen=True)
class ParityEnd:
    """What a parity check found."""

    predictions: int
    values: int
    differing_values: int
    alarms: list[str]


@dataclass(frozen=True)
class SagaEnd:
    """How a saga ended: `state` is completed or compensated."""

    state: str
    outcome: str


@dataclass(frozen=True)
class SagaStatus:
    """Where a saga stands, for the query `state`."""

    state: str
    doing: str
    steps: list[str]


@dataclass(frozen=True)
class Decision:
    """What a person decided, and the event that says so."""

    event_id: str
    actor: str
    reason: str = ""
    bundle: str = ""


# What activities take and return. `request_id` is that of the command, made in the workflow.


@dataclass(frozen=True)
class Arm:
    """A bundle with a role: champion, challenger or shadow; a challenger has a share."""

    bundle: str
    role: str
    share: float = 0.0


@dataclass(frozen=True)
class Named:
    """A thing to read by its name, and by its version where not the newest is meant."""

    origin: Origin
    name: str = ""
    version: str = ""


@dataclass(frozen=True)
class EndpointView:
    """An endpoint as it stands; the release policy as it is now, a protobuf message in JSON."""

    model: str
    generation: int
    arms: list[Arm]
    previous_champion: str
    canary_shares: list[float]
    approval_required: bool
    policy_json: str

    @property
    def champion(self) -> str:
        """Digest of the champion, empty without one."""
        return next((arm.bundle for arm in self.arms if arm.role == "champion"), "")


@dataclass(frozen=True)
class ModelView:
    """A model's feature set and how it is trained; parameters are a protobuf message in JSON."""

    feature_set: str
    parameters_json: str
    lookback_seconds: float


@dataclass(frozen=True)
class FeatureSetView:
    """A feature set: its version, the datasets it is built from, and the one that has the things to predict."""

    version: str
    datasets: list[str]
    spine: str


@dataclass(frozen=True)
class ChangeArms:
    """All arms from now on."""

    origin: Origin
    request_id: str
    arms: list[Arm]
    reason: str


@dataclass(frozen=True)
class Generation:
    """A generation of an endpoint's arms."""

    origin: Origin
    generation: int


@dataclass(frozen=True)
class Replicas:
    """Replicas of serving that have done something."""

    ids: list[str]


@dataclass(frozen=True)
class Advance:
    """A step of a saga to record."""

    origin: Origin
    request_id: str
    step: str
    finding: str
    evidence: str = ""
    bundle: str = ""


@dataclass(frozen=True)
class Finish:
    """The end of a saga to record."""

    origin: Origin
    request_id: str
    completed: bool
    outcome: str


@dataclass(frozen=True)
class BundleCommand:
    """Something to do with a bundle: register it (`model`), or reject it (`reason`)."""

    origin: Origin
    request_id: str
    bundle: str
    model: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Gates:
    """Gates to decide from an evaluation."""

    origin: Origin
    request_id: str
    bundle: str
    evaluation: str
    champion: str


@dataclass(frozen=True)
class GatesFound:
    """What the gates say: `state` is registered (a gate failed), gated or releasable."""

    state: str
    finding: str


@dataclass(frozen=True)
class TakeSnapshot:
    """A dataset to fix at a log position."""

    origin: Origin
    request_id: str
    dataset: str
    position: int


@dataclass(frozen=True)
class Position:
    """A log position; nothing more is known."""

    position: int


@dataclass(frozen=True)
class SnapshotTaken:
    """A snapshot; the latest event time is empty where the dataset has none."""

    digest: str
    rows: int
    position: int
    latest_event_time: str


@dataclass(frozen=True)
class BuildTrainingSet:
    """A training set to build from snapshots; empty times are no limits."""

    origin: Origin
    request_id: str
    feature_set: str
    version: str
    snapshots: dict[str, str]
    min_position: int
    start_time: str = ""
    end_time: str = ""
    label_known_time: str = ""
    unlabelled: bool = False


@dataclass(frozen=True)
class TrainingSetBuilt:
    """A training set."""

    digest: str
    rows: int


@dataclass(frozen=True)
class StartRun:
    """A run to start."""

    origin: Origin
    request_id: str
    model: str
    training_set: str
    parameters_json: str
    exclude_columns: list[str]


@dataclass(frozen=True)
class RunEnded:
    """How a run ended: with a bundle, or with why it failed."""

    bundle: str
    failure: str
    metrics: str


@dataclass(frozen=True)
class Evaluate:
    """Bundles to score on the same rows, the candidate first."""

    origin: Origin
    request_id: str
    training_set: str
    bundles: list[str]


@dataclass(frozen=True)
class Evaluated:
    """Evidence of an evaluation."""

    evaluation: str
    rows: int


@dataclass(frozen=True)
class Judge:
    """A stage of a release to watch until there is a verdict."""

    origin: Origin
    request_id: str
    candidate: str
    champion: str
    from_generation: int
    step_generation: int
    shadow: bool
    policy_json: str


@dataclass(frozen=True)
class Judgement:
    """A verdict (pass, fail, inconclusive, invalid), why, and its evidence."""

    verdict: str
    finding: str
    evidence: str


@dataclass(frozen=True)
class Examine:
    """An endpoint whose periods are to be closed and examined, or whose newest predictions are to be checked."""

    origin: Origin
    request_id: str


READ_ENDPOINT = Activity[Origin, EndpointView]("read_endpoint", EndpointView)
READ_MODEL = Activity[Named, ModelView]("read_model", ModelView)
READ_FEATURE_SET = Activity[Named, FeatureSetView]("read_feature_set", FeatureSetView)
READ_POSITION = Activity[Origin, Position]("read_position", Position)
WAIT_UNTIL_ACTIVE = Activity[Origin, EndpointView]("wait_until_active", EndpointView)
CHANGE_ARMS = Activity[ChangeArms, Generation]("change_arms", Generation)
WAIT_FOR_GENERATION = Activity[Generation, Replicas]("wait_for_generation", Replicas)
ADVANCE_SAGA = Activity[Advance, Position]("advance_saga", Position)
FINISH_SAGA = Activity[Finish, Position]("finish_saga", Position)
REGISTER_BUNDLE = Activity[BundleCommand, Position]("register_bundle", Position)
REJECT_BUNDLE = Activity[BundleCommand, Position]("reject_bundle", Position)
EVALUATE_GATES = Activity[Gates, GatesFound]("evaluate_gates", GatesFound)
TAKE_SNAPSHOT = Activity[TakeSnapshot, SnapshotTaken]("take_snapshot", SnapshotTaken)
BUILD_TRAINING_SET = Activity[BuildTrainingSet, TrainingSetBuilt]("build_training_set", TrainingSetBuilt)
START_RUN = Activity[StartRun, Named]("start_run", Named)
WATCH_RUN = Activity[Named, RunEnded]("watch_run", RunEnded)
EVALUATE_BUNDLES = Activity[Evaluate, Evaluated]("evaluate_bundles", Evaluated)
JUDGE_RELEASE = Activity[Judge, Judgement]("judge_release", Judgement)
EXAMINE_PERIODS = Activity[Examine, WatchEnd]("examine_periods", WatchEnd)
CHECK_PARITY = Activity[Examine, ParityEnd]("check_parity", ParityEnd)
