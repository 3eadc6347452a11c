"""Runs: started, then completed or failed, once."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import FieldViolation, InvalidArgument, RuleViolated
from lineal.api.trainer.v1.events_pb2 import ModelImported, RunCompleted, RunFailed, RunStarted
from lineal.api.trainer.v1.run_pb2 import Parameters, RunState

_DEFAULTS = Parameters(
    iterations=500,
    depth=6,
    learning_rate=0.1,
    l2_leaf_reg=3.0,
    early_stopping_rounds=50,
    threads=2,
    validation_share=0.15,
    test_share=0.15,
    max_ctr_complexity=4,
    border_count=254,
)


class ParametersInvalid(InvalidArgument):
    """Parameters out of range."""


class RunEnded(RuleViolated):
    """A run ends once."""


@dataclass(frozen=True)
class RunStanding:
    """Where a run stands."""

    state: "RunState.ValueType" = RunState.RUN_STATE_UNSPECIFIED


def start(
    run: RunStanding, *, run_id: str, model: str, training_set_digest: str, parameters: Parameters
) -> Sequence[Message]:
    """Start a run with the defaults filled in. Raises ParametersInvalid."""
    if run.state != RunState.RUN_STATE_UNSPECIFIED:
        return []
    parameters = with_defaults(parameters)
    return [RunStarted(run_id=run_id, model=model, training_set_digest=training_set_digest, parameters=parameters)]


def complete(run: RunStanding, completed: RunCompleted) -> Sequence[Message]:
    """End a run with a bundle. Raises RunEnded."""
    return [completed] if _running(run) else []


def fail(run: RunStanding, *, run_id: str, failure: str) -> Sequence[Message]:
    """End a run without. Raises RunEnded."""
    return [RunFailed(run_id=run_id, failure=failure)] if _running(run) else []


def imported(run: RunStanding, *, run_id: str, model: str, bundle_digest: str) -> Sequence[Message]:
    """Record a model that was trained elsewhere."""
    if run.state != RunState.RUN_STATE_UNSPECIFIED:
        return []
    return [ModelImported(run_id=run_id, model=model, bundle_digest=bundle_digest)]


def evolve(run: RunStanding, event: Message) -> RunStanding:
    """Apply one event."""
    match event:
        case RunStarted():
            return RunStanding(RunState.RUN_STATE_RUNNING)
        case RunCompleted() | ModelImported():
            return RunStanding(RunState.RUN_STATE_COMPLETED)
        case RunFailed():
            return RunStanding(RunState.RUN_STATE_FAILED)
    return run


decider = Decider(RunStanding(), evolve)


def with_defaults(parameters: Parameters) -> Parameters:
    """Fill in what is unset. Raises ParametersInvalid with every parameter out of range."""
    filled = Parameters()
    filled.CopyFrom(_DEFAULTS)
    filled.MergeFrom(parameters)
    violations = [
        FieldViolation(f"parameters.{name}", what)
        for name, holds, what in (
            ("depth", filled.depth <= 16, "CatBoost takes a depth of 16 at most"),
            ("iterations", filled.iterations <= 100_000, "100,000 trees are the most"),
            ("learning_rate", 0 < filled.learning_rate <= 1, "must lie above 0 and not above 1"),
            ("l2_leaf_reg", filled.l2_leaf_reg > 0, "must be positive"),
            ("threads", filled.threads <= 256, "256 are the most"),
            ("validation_share", 0 < filled.validation_share < 1, "must lie between 0 and 1"),
            ("test_share", 0 < filled.test_share < 1, "must lie between 0 and 1"),
            (
                "test_share",
                filled.validation_share + filled.test_share < 0.9,
                "with validation_share it must stay below 0.9, or nothing is left to learn from",
            ),
            ("gap", filled.gap.ToMicroseconds() >= 0, "must not be negative"),
            ("max_ctr_complexity", filled.max_ctr_complexity <= 8, "combinations of 8 columns are the most"),
            ("border_count", filled.border_count <= 65_535, "CatBoost takes 65,535 at most"),
            ("trials", filled.trials <= 1000, "1,000 trials are the most"),
        )
        if not holds
    ]
    if violations:
        raise ParametersInvalid("the parameters of the run are out of range", violations)
    return filled


def _running(run: RunStanding) -> bool:
    # A job that a crash interrupted may report its end twice: once before the crash was noticed, once taken up again.
    if run.state == RunState.RUN_STATE_UNSPECIFIED:
        raise RunEnded("the run was never started")
    return run.state == RunState.RUN_STATE_RUNNING
