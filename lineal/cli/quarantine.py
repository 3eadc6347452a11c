"""Commands on quarantined rows: list, fix, release, discard."""

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from lineal.cli.files import read_table
from lineal.cli.output import options, say, show
from lineal.cli.work import connect
from lineal.errors import LinealError
from lineal.quarantine import Settled

app = typer.Typer(no_args_is_help=True, help="See what validation refused, and settle it.")
Dataset = Annotated[str, typer.Argument(help="Name of the dataset.")]
Batch = Annotated[str, typer.Argument(help="Batch that the rows came in.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; goes into the log with your name.")]
Rows = Annotated[list[int] | None, typer.Argument(help="Numbers of the rows in the batch, from 0.")]
All = Annotated[bool, typer.Option("--all", help="All rows of the batch that are not settled.")]


@app.callback()
def before() -> None:
    """See what validation refused, and settle it."""


@app.command("list")
def list_rows(
    dataset: Dataset,
    batch: Annotated[str, typer.Option(help="Only rows of this batch.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", help="Show so many rows; 0 is all.", min=0)] = 20,
) -> None:
    """List the quarantined rows that are not settled, with their reasons, newest batch first."""
    with connect() as client:
        found = list(islice(client.quarantine.rows(dataset, batch_id=batch), limit or None))
    show(
        [asdict(row) for row in found],
        ("batch", "row", "why", "values"),
        [
            (
                row.batch_id,
                row.row,
                "; ".join(f"{field}: {why}" for field, why in row.reasons.items()),
                ", ".join(f"{name}={value}" for name, value in row.values.items() if value is not None),
            )
            for row in found
        ],
    )
    if len(found) == limit:
        say("… there may be more; `--limit 0` lists all")


@app.command()
def fix(
    dataset: Dataset,
    batch: Batch,
    rows: Rows = None,
    reason: Reason = "corrected on the command line",
    values: Annotated[list[str] | None, typer.Option("--set", help="COLUMN=VALUE, for each named row.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet file: a column `row`, and those to replace.")
    ] = None,
) -> None:
    """Replace values of quarantined rows; they are validated anew and accepted as a batch of their own."""
    if (file is None) == (not values) or (file is None) != bool(rows):
        raise LinealError("name rows and give --set COLUMN=VALUE, or give --file with the rows' numbers in it")
    numbers = rows or []
    if file is not None:
        table = read_table(file)
        if "row" not in table.column_names:
            raise LinealError(f"{file} has no column `row` with the numbers of the rows")
        numbers = [int(number) for number in table["row"].to_pylist()]
        table = table.drop_columns(["row"])
    else:
        given = [_pair(text) for text in values or []]
        table = pa.table({name: pa.array([value] * len(numbers)) for name, value in given})
    with connect() as client:
        _show(client.quarantine.fix(dataset, batch, numbers, table, reason=reason), "fixed")


@app.command()
def release(
    dataset: Dataset,
    batch: Batch,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why they may be used; goes into the log.")],
    rows: Rows = None,
    everything: All = False,
) -> None:
    """Accept quarantined rows as they are, where their type allows it."""
    with connect() as client:
        _show(client.quarantine.release(dataset, batch, _named(rows, everything), reason=reason), "released")


@app.command()
def discard(
    dataset: Dataset,
    batch: Batch,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; goes into the log with your name.")],
    rows: Rows = None,
    everything: All = False,
) -> None:
    """Give quarantined rows up."""
    with connect() as client:
        _show(client.quarantine.discard(dataset, batch, _named(rows, everything), reason=reason), "discarded")


def _named(rows: list[int] | None, everything: bool) -> list[int]:
    if bool(rows) == everything:
        raise LinealError("name the rows by their numbers, or say --all")
    return rows or []


def _pair(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not equals:
        raise LinealError(f"--set: {text!r} does not read COLUMN=VALUE")
    return name, value or None


def _show(done: Settled, word: str) -> None:
    if options.json:
        show(asdict(done))
        return
    show(None, (word, "batch", "position"), [(done.rows, done.batch_id, done.position)])
