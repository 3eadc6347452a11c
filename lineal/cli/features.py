"""Commands about features: explain."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.tree import Tree

from lineal.cli.look import described
from lineal.cli.moments import Times
from lineal.cli.output import console, options, show
from lineal.cli.work import connect
from lineal.errors import LinealError
from lineal.explain import View
from lineal.explain import explain as find
from lineal.trace import trace

app = typer.Typer(no_args_is_help=True, help="Ask what features are made of.")


@app.callback()
def before() -> None:
    """Ask what features are made of."""


@app.command()
def explain(
    prediction: Annotated[str, typer.Argument(help="Id of a prediction: its features as they were served.")] = "",
    feature_set: Annotated[str, typer.Option("--set", help="A feature set, instead of a prediction.")] = "",
    entity: Annotated[list[str] | None, typer.Option("--entity", help="COLUMN=VALUE, for each entity key.")] = None,
    at: Annotated[
        datetime | None,
        typer.Option(help="Cut-off in UTC; now by default.", formats=Times),
    ] = None,
    position: Annotated[int, typer.Option(help="As known at this log position.")] = 0,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Show so many rows of a view; 0 is all.", min=0)] = 20,
) -> None:
    """Show which accepted rows make the looked-up features of a prediction, or of an entity at a time."""
    if bool(prediction) == bool(feature_set):
        raise LinealError("name a prediction, or a feature set with --set")
    with connect() as client:
        if prediction:
            views = trace(client.services, prediction).views
        else:
            entities = _entities(entity or [])
            cutoff = (at or datetime.now(UTC)).replace(tzinfo=UTC)
            micros = round(cutoff.timestamp() * 1_000_000)
            views = find(client.services, feature_set, "", entities, micros, position)
    if options.json:
        show([asdict(view) for view in views])
        return
    for view in views:
        console.print(_tree(view, limit))
    if not views:
        console.print("Nothing was looked up: all features came with the request.")


def _entities(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise LinealError(f"--entity: {text!r} does not read COLUMN=VALUE")
        found[name] = value
    return found


def _tree(view: View, limit: int) -> Tree:
    tree = Tree(described(view, limit))
    for name, value in view.values.items():
        shown = view.statuses[name].replace("_", " ") if value is None else value
        tree.add(f"[bold]{name}[/bold] {shown}")
    for row in view.rows[::-1][: limit or None]:
        values = ", ".join(f"{name} {value}" for name, value in row.values.items())
        tree.add(f"row {row.row} of batch {row.batch_id} at log position {row.batch_position:,}: {values}")
    return tree
