"""`lineal plan`: what `lineal apply` would change."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from lineal.cli.output import console, options, say, short, show
from lineal.cli.work import connect
from lineal.plan import Change, Plan, Planned

_MARKS = {
    Change.NEW: "[green]+[/green]",
    Change.CHANGED: "[yellow]~[/yellow]",
    Change.UNCHANGED: " ",
    Change.BROUGHT_BACK: "[green]^[/green]",
}
_CHANGES_EXIT = 2


def plan(folder: Annotated[Path, typer.Argument(help="Folder of YAML definitions.")]) -> None:
    """Show what `lineal apply` would change, and what that touches; exits 2 if anything would, else 0."""
    with connect() as client:
        found = client.plan(folder)
    if options.json:
        show(plan_json(found))
    else:
        for planned in found.definitions:
            for line in _lines(planned):
                console.print(line, highlight=False, soft_wrap=True)
        counts = {change: sum(planned.change == change for planned in found.definitions) for change in Change}
        if not counts[Change.BROUGHT_BACK]:
            del counts[Change.BROUGHT_BACK]
        say(", ".join(f"{count} {change}" for change, count in counts.items()))
    if found.changes:
        raise typer.Exit(_CHANGES_EXIT)


def plan_json(found: Plan) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    return {"changes": found.changes, "definitions": [asdict(planned) for planned in found.definitions]}


def _lines(planned: Planned) -> list[str]:
    versions = " -> ".join(short(v) for v in (planned.old_version, planned.version) if v)
    if planned.change == Change.UNCHANGED or (planned.old_version and not planned.version):
        versions = ""
    head = f"{_MARKS[planned.change]} {planned.kind} {planned.name}: {planned.change}"
    lines = [head + (f", version {versions}" if versions else "")]
    lines += [escape(f"    {d.path}: {_text(d.old)} -> {_text(d.new)}") for d in planned.differences]
    if planned.change == Change.BROUGHT_BACK:
        lines.append("    it is retired: `lineal apply` brings it back; leave it out of the project to let it rest")
    if planned.changed_views:
        lines.append(f"    because of feature view {', '.join(planned.changed_views)}")
    elif planned.change == Change.CHANGED and not planned.differences and planned.version:
        lines.append("    because its feature views were changed after it was declared")
    if planned.unknown_views:
        lines.append(
            f"    [red]refused[/red]: feature view {', '.join(planned.unknown_views)} is declared nowhere or retired"
        )
    touched = [
        f"{kind} {', '.join(names)}"
        for kind, names in (
            ("feature view", planned.touched.views),
            ("feature set", planned.touched.sets),
            ("model", planned.touched.models),
            ("endpoint", planned.touched.endpoints),
        )
        if names
    ]
    if touched:
        lines.append(f"    touches {'; '.join(touched)}")
    return lines


def _text(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
