"""How commands take times, all in UTC, and moments in the log."""

from datetime import UTC, datetime
from typing import Annotated

import typer

Times = [
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%f",
]
At = Annotated[
    datetime | None,
    typer.Option(help="As it was at this time, in UTC, for example '2026-11-20 14:05'.", formats=Times),
]
Position = Annotated[int, typer.Option(help="As it was at this log position.", min=0)]


def utc(at: datetime | None) -> datetime | None:
    """Return a time that was given, which is in UTC."""
    return None if at is None else at.replace(tzinfo=UTC)
