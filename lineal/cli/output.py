"""What the CLI draws: tables and progress for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console()
errors = Console(stderr=True)


@dataclass
class Options:
    """What was said before the command: where Lineal is, and how to answer."""

    connect: str | None = None
    json: bool = False


options = Options()


def plain(value: Any) -> Any:
    """Return a value as JSON has it: messages by their field names, times in ISO 8601."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def show(value: Any, columns: Sequence[str] = (), rows: Iterable[Sequence[Any]] = (), title: str = "") -> None:
    """Draw a table, or with `--json` print `value`."""
    if options.json:
        sys.stdout.write(json.dumps(plain(value), indent=2, default=str) + "\n")
        return
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*(cell(value) for value in row))
        count += 1
    if count or title:
        console.print(table)
    if not count:
        console.print("[dim]nothing yet[/dim]")


def say(text: str) -> None:
    """Tell a person something; programs that asked for JSON get nothing."""
    if not options.json:
        console.print(text)


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None or value == "":
        return "[dim]-[/dim]"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def short(digest: str) -> str:
    """Return the beginning of a digest."""
    return digest[:12]


def moment(message: Any, name: str) -> datetime | None:
    """Return a time of a message, None when it is not set."""
    found: datetime | None = getattr(message, name).ToDatetime() if message.HasField(name) else None
    return found


def progress() -> Progress:
    """Return a progress display; it draws nothing where nobody looks."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=options.json or not errors.is_terminal,
    )
