"""Commands about contested decisions: contest, contests, resolve."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape

from lineal.api.monitor.v1.contest_pb2 import Contest, ContestState
from lineal.api.monitor.v1.contest_service_pb2 import GetContestResponse
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.cli.look import Endpoint, say_reasons, word
from lineal.cli.moments import At, Position, utc
from lineal.cli.output import moment, options, plain, say, short, show
from lineal.cli.work import connect

Why = Annotated[str, typer.Option("--reason", "-r", help="Why; goes into the log with your name.")]


class State(StrEnum):
    """Where contests stand, as commands name it."""

    OPEN = "open"
    UPHELD = "upheld"
    OVERRIDDEN = "overridden"


class Resolution(StrEnum):
    """What a reviewer decides, as commands name it."""

    UPHOLD = "uphold"
    OVERRIDE = "override"


def contest(prediction: Annotated[str, typer.Argument(help="Id of a prediction.")], reason: Why) -> None:
    """Contest a decision: freeze its evidence and have a person look at it who has no part in it."""
    with connect() as client:
        found = client.decisions.contest(prediction, reason=reason)
    _show_all([found], found)
    say(f"evidence {short(found.evidence_digest)}; `lineal contests {found.contest_id}` shows it")


def contests(
    contest_id: Annotated[str, typer.Argument(metavar="[CONTEST]", help="Id of one, to see its evidence.")] = "",
    state: Annotated[State | None, typer.Option(help="Only those that stand so.")] = None,
    endpoint: Endpoint = "",
    at: At = None,
    position: Position = 0,
) -> None:
    """List contested decisions, those first that wait longest; or one with its evidence."""
    time = utc(at)
    with connect() as client:
        if contest_id:
            _show_evidence(client.decisions.evidence(contest_id, as_of_position=position, as_of_time=time))
            return
        found = list(
            client.decisions.contests(state=state or "", endpoint=endpoint, as_of_position=position, as_of_time=time)
        )
    _show_all(found, found)


def resolve(
    contest_id: Annotated[str, typer.Argument(metavar="CONTEST", help="Id of a contest.")],
    resolution: Annotated[Resolution, typer.Argument(help="Whether the decision stands.")],
    reason: Why,
) -> None:
    """Resolve a contest, as a person who neither contested it nor declared or owns the model."""
    with connect() as client:
        decided = "upheld" if resolution is Resolution.UPHOLD else "overridden"
        found = client.decisions.resolve(contest_id, decided, reason=reason)
    _show_all([found], found)


def _show_all(found: list[Contest], value: object) -> None:
    rows = [
        (
            each.contest_id,
            each.model,
            word(ContestState, each.state),
            escape(f"{each.contested_by}: {each.reason}"),
            moment(each, "contest_time"),
            _due(each),
            escape(f"{each.resolved_by}: {each.resolution_reason}") if each.resolved_by else "",
        )
        for each in found
    ]
    show(value, ("contest", "model", "state", "contested by", "at", "due", "resolved by"), rows)


def _due(found: Contest) -> str:
    due = moment(found, "due_time")
    if due is None or found.state != ContestState.CONTEST_STATE_OPEN:
        return ""
    late = due.replace(tzinfo=UTC) < datetime.now(UTC)
    return f"{due:%Y-%m-%d}{' (overdue)' if late else ''}"


def _show_evidence(found: GetContestResponse) -> None:
    record = PredictionRecord.FromString(found.evidence.record)
    if options.json:
        show({"contest": plain(found.contest), "evidence": plain(found.evidence), "prediction": plain(record)})
        return
    _show_all([found.contest], None)
    evidence = found.evidence
    say(
        f"score {record.score:.4f}, decision {record.decision}, answered by bundle {short(record.bundle_digest)} of "
        f"{record.endpoint}"
    )
    numbers = zip(evidence.numeric_columns, (f"{number:g}" for number in record.numeric_values), strict=True)
    texts = zip(evidence.categorical_columns, record.categorical_values, strict=True)
    say(escape("from " + ", ".join(f"{name} {text or '-'}" for name, text in (*numbers, *texts))))
    say(
        f"record {evidence.index} of segment {short(evidence.segment_digest)}, sealed at position {evidence.position:,}"
    )
    if evidence.without_explanation:
        say(f"no explanation: {evidence.without_explanation}")
    else:
        say_reasons(evidence.explanation)
