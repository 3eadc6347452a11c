"""Commands over all that is declared: catalog, retire."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from lineal.catalog import catalog as search
from lineal.cli.moments import At, Position, utc
from lineal.cli.output import say, show
from lineal.cli.work import connect

_SHOWN_COLUMNS = 8


class Kind(StrEnum):
    """The kinds of definitions, as commands name them."""

    DATASET = "dataset"
    FEATURE_VIEW = "feature-view"
    FEATURE_SET = "feature-set"
    MODEL = "model"
    ENDPOINT = "endpoint"

    @property
    def declared(self) -> str:
        """The kind as project files have it."""
        return self.value.title().replace("-", "")


def catalog(
    text: Annotated[str, typer.Argument(help="Words to look for in names, descriptions, owners and columns.")] = "",
    retired: Annotated[bool, typer.Option("--retired", help="Also what is retired.")] = False,
    at: At = None,
    position: Position = 0,
) -> None:
    """List what is declared, or was then: datasets, feature views, feature sets, models, endpoints."""
    with connect() as client:
        found = search(client.services, text, retired=retired, as_of_position=position, as_of_time=utc(at))
    rows = []
    for entry in found:
        more = len(entry.columns) - _SHOWN_COLUMNS
        columns = ", ".join(entry.columns[:_SHOWN_COLUMNS]) + (f" and {more} more" if more > 0 else "")
        name = f"{entry.name} (retired)" if entry.retired else entry.name
        rows.append((entry.kind, name, entry.owner, entry.description, columns))
    show([asdict(entry) for entry in found], ("kind", "name", "owner", "description", "columns"), rows)


def retire(
    kind: Annotated[Kind, typer.Argument(help="What it is.")],
    name: Annotated[str, typer.Argument(help="Its name.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the log.")],
) -> None:
    """Let nothing new use a definition; what was made of it stays, and bundles keep serving."""
    with connect() as client:
        position = client.retire(kind.declared, name, reason=reason)
    say(f"{kind} {name} is retired (position {position}); `lineal apply` of its declaration brings it back")
