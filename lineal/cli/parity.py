"""Command: parity."""

from datetime import datetime
from typing import Annotated

import typer

from lineal.api.features.v1.parity_pb2 import FeatureValue
from lineal.api.monitor.v1.report_pb2 import ParityCheck
from lineal.cli.output import moment, options, say, show
from lineal.cli.work import connect

_FORMATS = ["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"]


def parity(
    endpoint: Annotated[str, typer.Argument(help="Name of the endpoint.")],
    predictions: Annotated[int, typer.Option("-n", help="At most so many, the newest; 200 by default.", min=0)] = 0,
    start: Annotated[
        datetime | None, typer.Option(help="Event times from here in UTC, inclusive.", formats=_FORMATS)
    ] = None,
    end: Annotated[datetime | None, typer.Option(help="Event times before here in UTC.", formats=_FORMATS)] = None,
) -> None:
    """Compute anew, offline, what the newest predictions looked up; exit code 1 when anything differs."""
    with connect() as client:
        found = client.check_parity(endpoint, predictions=predictions, start=start, end=end)
    if options.json or found.check.differing_values:
        rows = [
            (each.prediction_id, each.served.column, _shown(each.served), _shown(each.computed), each.position)
            for each in found.report.differences
        ]
        columns = ("prediction", "feature", "served", "computed", "log position")
        show(found, columns, rows, title=parity_line(found.check))
    else:
        say(parity_line(found.check))
    if found.check.differing_values:
        raise typer.Exit(1)


def parity_line(check: ParityCheck) -> str:
    """Return in a line what a check looked at and found."""
    if not check.predictions:
        return "no prediction has looked anything up"
    span = f"{moment(check, 'start_time'):%Y-%m-%d %H:%M} to {moment(check, 'end_time'):%Y-%m-%d %H:%M}"
    return (
        f"{check.predictions:,} predictions ({span}), {check.values:,} values computed anew, "
        f"{check.differing_values:,} differ"
    )


def _shown(value: FeatureValue) -> str:
    number = value.WhichOneof("value") == "number" and value.number == value.number
    return f"{value.number!r}" if number else value.text
