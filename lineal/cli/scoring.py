"""Commands that score many rows at once: `score`, `rescore`, and `scoring`, which returns to one of them."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from lineal.api.serving.v1.scoring_pb2 import Scoring, ScoringState
from lineal.cli.moments import Times, utc
from lineal.cli.output import progress, say, short, show
from lineal.cli.work import connect
from lineal.errors import LinealError
from lineal.scoring import Scorings

Start = Annotated[datetime | None, typer.Option(help="Only from this time on, UTC.", formats=Times)]
End = Annotated[datetime | None, typer.Option(help="Only before this time, UTC.", formats=Times)]
Out = Annotated[Path | None, typer.Option(help="Copy the rows of the result to this Parquet file.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the scoring to its end.")]


def score(
    name: Annotated[str, typer.Argument(help="Name of an endpoint, whose champion scores, or digest of a bundle.")],
    rows: Annotated[str, typer.Argument(help="<dataset>, or <dataset>@<digest of a snapshot>; else one is taken now.")],
    start: Start = None,
    end: End = None,
    out: Out = None,
    wait: Wait = True,
) -> None:
    """Score the rows of a snapshot as predictions would be, features as of each row's cut-off."""
    dataset, at, snapshot = rows.partition("@")
    if at and not snapshot:
        raise LinealError(f"{rows!r} names no snapshot: give {dataset}@<digest>, or {dataset} to take one now")
    _check(out, wait)
    with connect() as client:
        scoring_id = client.scorings.score(name, dataset, snapshot=snapshot, start=utc(start), end=utc(end))
        _begun(client.scorings, scoring_id, wait, out)


def rescore(
    endpoint: Annotated[str, typer.Argument(help="Name of the endpoint that answered.")],
    bundle: Annotated[str, typer.Option(help="Digest of the bundle that scores, or its first characters.")],
    start: Start = None,
    end: End = None,
    out: Out = None,
    wait: Wait = True,
) -> None:
    """Score an endpoint's sealed predictions anew with another bundle, from the very values that were scored then."""
    _check(out, wait)
    with connect() as client:
        scoring_id = client.scorings.rescore(endpoint, bundle, start=utc(start), end=utc(end))
        _begun(client.scorings, scoring_id, wait, out)


def scoring(
    scoring_id: Annotated[str, typer.Argument(help="Id of a scoring, as `score` and `rescore` print it.")],
    out: Out = None,
    wait: Wait = True,
) -> None:
    """Follow a scoring that was asked for before, or with --no-wait show where it stands."""
    _check(out, wait)
    with connect() as client:
        if wait:
            _follow(client.scorings, scoring_id, out)
            return
        found = client.scorings.get(scoring_id)
        if found.state != ScoringState.SCORING_STATE_RUNNING:
            _end(found, out)
            return
        parts = f"{found.done} of {found.total}" if found.total else ""
        show(found, ("scoring", "stage", "parts done"), [(scoring_id, found.stage, parts)])


def _check(out: Path | None, wait: bool) -> None:
    """Say before hours of work what could not be done after them."""
    if out is None:
        return
    if not wait:
        raise LinealError("--out needs the result: leave out --no-wait, or give --out to `lineal scoring` later")
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise LinealError(f"--out {out} is no place for a file; name one in a folder that is there")


def _begun(scorings: Scorings, scoring_id: str, wait: bool, out: Path | None) -> None:
    if not wait:
        show({"scoring_id": scoring_id}, ("scoring",), [(scoring_id,)])
        return
    say(f"scoring {scoring_id} goes on also when this is interrupted; `lineal scoring` with its id follows it again")
    _follow(scorings, scoring_id, out)


def _follow(scorings: Scorings, scoring_id: str, out: Path | None) -> None:
    last = Scoring()
    with progress() as bar:
        task = bar.add_task("waiting", total=None)
        for last in scorings.watch(scoring_id):
            bar.update(task, description=last.stage, completed=last.done, total=last.total or None)
    if out is not None and last.result.rows:
        scorings.write(scoring_id, out)
    _end(last, out)


def _end(scoring: Scoring, out: Path | None) -> None:
    if scoring.state == ScoringState.SCORING_STATE_FAILED:
        raise LinealError(f"scoring {scoring.scoring_id} has no result: {scoring.failure}")
    _show(scoring, out if scoring.result.rows else None)


def _show(scoring: Scoring, out: Path | None) -> None:
    result = scoring.result
    told = [
        ("rows", result.rows),
        ("mean score", result.score_mean),
        ("decided other than 0", result.positive_decisions),
    ]
    if result.HasField("comparison"):
        found = result.comparison
        told += [
            ("mean score as answered", found.old_score_mean),
            ("mean shift", found.mean_shift),
            ("mean shift without sign", found.mean_absolute_shift),
            ("greatest shift without sign", found.max_absolute_shift),
            ("decisions that flip", found.flips),
            ("of these away from 0", found.flips_from_zero),
            ("of these to 0", found.flips_to_zero),
            ("predictions without a recorded vector", found.without_vector),
        ]
    show(scoring, ("what", "value"), told, title=f"by bundle {short(scoring.plan.bundle_digest)}")
    where = f"; its rows are in {out}" if out else ""
    if result.rows and not out:
        where = f"; `lineal scoring {scoring.scoring_id} --out FILE` copies its rows to a Parquet file"
    say(f"{result.rows:,} rows scored; the result is artifact {result.result_digest}{where}")
