"""Commands about backups: backup, restore."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from lineal import backup as backups
from lineal.cli.output import errors, options, progress, show
from lineal.cli.suite import root
from lineal.cli.work import connect
from lineal.errors import LinealError
from lineal.places import place_at


def backup(
    where: Annotated[str, typer.Argument(help="Folder or fsspec URL; what is there already is not sent again.")],
) -> None:
    """Back up the log and every artifact that it names, while everything runs."""
    with connect() as client, progress() as display:
        tasks = {what: display.add_task(what, total=None) for what in ("events", "artifacts")}
        done = backups.run(
            client.services,
            place_at(where),
            lambda what, count, total: display.update(tasks[what], completed=count, total=total),
        )
    value = {
        "origin": done.checkpoint.origin,
        "size": done.checkpoint.size,
        "root": done.checkpoint.root.hex(),
        "events": done.events,
        "artifacts": done.artifacts,
        "copied": done.copied,
        "missing": done.missing,
    }
    rows = [
        ("events", f"{done.checkpoint.size:,}, {done.events:,} of them new; root {done.checkpoint.root.hex()[:12]}"),
        ("artifacts", f"{done.artifacts:,}, {done.copied:,} of them new"),
        ("not in it", "the log's private keys: keep a copy of its folder of keys in another place"),
    ]
    show(value, ("backed up", "what"), rows)


def restore(
    where: Annotated[str, typer.Argument(help="Folder or fsspec URL of a backup.")],
    data: Annotated[Path, typer.Option("--data", help="New folder of everything that is kept.")],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="Copy of the log's folder of private keys; without it the log is named anew."),
    ] = None,
    key: Annotated[str, typer.Option("--key", help="Public key that the backup must be signed with.")] = "",
) -> None:
    """Restore a backup into an empty place; `lineal up --data` runs it and builds every read table from it."""
    if not (root() / "services" / "lineage").is_dir():
        raise LinealError("services are restored from the project's clone; run `lineal restore` there")
    backup = where if "://" in where else str(Path(where).resolve())
    given = ["--key", key] if key else []
    given += ["--keys", str(keys.resolve())] if keys else []
    with errors.status("restoring …"):
        found = json.loads(_restored("lineage", data, backup, *given))
        # The vault is in neither log nor artifacts.
        found["vault"] = int(_restored("ingest", data, backup))
    rows = [
        ("log", f"{found['origin']}, {found['size']:,} events"),
        ("root", f"{found['root'][:12]}, as it was signed"),
        ("vault", f"protected attributes of {found['vault']:,} rows"),
        ("signs with", "the same keys" if keys else "a new key and name, made when it starts"),
    ]
    show(found, ("restored", "what"), rows)
    if not options.json:
        errors.print(f"`lineal up --data {data}` runs it.", highlight=False)


def _restored(service: str, data: Path, *arguments: str) -> str:
    """Let a service restore what is its own; return what it printed."""
    command = [sys.executable, "-m", f"services.{service}", "restore", *arguments]
    environment = {**os.environ, "LINEAL_DATA_DIR": str(data.resolve())}
    done = subprocess.run(command, cwd=root(), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LinealError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "nothing was restored")
    return done.stdout
