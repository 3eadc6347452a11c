"""Commands on the whole suite: up, down, status, doctor."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import ArmRole
from lineal.cli import keep, tables
from lineal.cli.output import errors, options, say, short, show
from lineal.client import Client
from lineal.errors import LinealError
from lineal.local.__main__ import PID_FILE
from lineal.local.health import HEALTHY, check
from lineal.local.plan import SERVICES
from lineal.profile import Profile

DataFolder = Annotated[
    Path, typer.Option("--data", help="Folder of everything that is kept.", envvar="LINEAL_DATA_DIR")
]
_DATA = Path("data")
_READY_SECONDS = 120.0
_DOWN_SECONDS = 60.0
# Between two looks at other processes, whose health and end nobody announces; each wait has a limit.
_POLL_SECONDS = 0.2


def root() -> Path:
    """Return the folder of the project that this package is in."""
    return Path(__file__).resolve().parents[2]


def up(
    data: DataFolder = _DATA,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Take free ports where the usual ones are taken.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once everything is healthy.")] = False,
) -> None:
    """Run every service on this machine, with Temporal and its UI, until Ctrl-C (or `lineal down`)."""
    data = data.resolve()
    process = start(data, free_ports=free_ports)
    try:
        profile = wait_until_healthy(data, process)
    except KeyboardInterrupt:
        stop(data)
        raise typer.Exit(130) from None
    _show_places(data, profile)
    if detach:
        return
    say("Ctrl-C stops everything; what is kept stays in the data folder.")
    try:
        process.wait()
    except KeyboardInterrupt:
        say("stopping …")
        stop(data)


def down(data: DataFolder = _DATA) -> None:
    """Stop what `lineal up` started on a data folder."""
    if not stop(data.resolve()):
        say(f"nothing runs on {data}")


def status(
    wait: Annotated[bool, typer.Option("--wait", help="Return when everything is healthy.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that --wait waits at most.")] = _READY_SECONDS,
) -> None:
    """Show how every service is, and what each endpoint serves."""
    profile = Profile.load(options.connect)
    names = [*SERVICES, "temporal", "temporal-ui"]
    end = time.monotonic() + timeout
    found = check(profile, names)
    while wait and any(state != HEALTHY for state in found.values()) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        found = check(profile, names)
    healthy = all(state == HEALTHY for state in found.values())
    endpoints: list[Any] = []
    if found["registry"] == HEALTHY:
        with Client(profile) as client:
            # Those that are retired keep serving.
            request = registry_api.ListEndpointsRequest(include_retired=True)
            endpoints = list(client.services.registry.call("ListEndpoints", request).endpoints)
    value = {"services": {name: {"address": profile.address(name), "state": found[name]} for name in names}}
    show(
        value | {"endpoints": endpoints},
        ("service", "address", "state"),
        [(name, profile.address(name), _coloured(found[name])) for name in names],
    )
    if endpoints and not options.json:
        show({}, ("endpoint", "arms", "saga"), [(_name(e), _arms(e), e.active_saga_id) for e in endpoints])
    if not healthy:
        raise typer.Exit(1)


def doctor(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Rebuild every read table from position 0 and compare.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every stored record, tree node, checkpoint and artifact, and compare."),
    ] = False,
) -> None:
    """Look for what is wrong: health, unloadable arms, read tables that lag or parked events, faults of libraries."""
    profile = Profile.load(options.connect)
    rows: list[tuple[str, bool, str]] = []
    for name, state in check(profile, [*SERVICES, "temporal"]).items():
        rows.append((f"{name} is healthy", state == HEALTHY, state))
    if all(good for _, good, _ in rows):
        rows += [
            *_loaded(profile),
            *tables.databases(profile),
            *tables.standing(profile),
            *(tables.rebuilt(profile) if rebuild else ()),
        ]
        rows += keep.verified(profile) if verify else ()
    show(
        [{"check": name, "ok": good, "finding": finding} for name, good, finding in rows],
        ("check", "", "finding"),
        [(name, "[green]ok[/green]" if good else "[red]wrong[/red]", finding) for name, good, finding in rows],
    )
    if not all(good for _, good, _ in rows):
        raise typer.Exit(1)


def start(data: Path, *, free_ports: bool) -> "subprocess.Popen[bytes]":
    """Start the supervisor in a process of its own; its log is `logs/up.log` in the data folder."""
    (data / "logs").mkdir(parents=True, exist_ok=True)
    if not _alive(data):
        (data / PID_FILE).unlink(missing_ok=True)
    with (data / "logs" / "up.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lineal.local", str(data), str(root()), *(["--free-ports"] if free_ports else [])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_until_healthy(data: Path, process: "subprocess.Popen[bytes]") -> Profile:
    """Return the profile once everything is healthy. Raises LinealError with the reason when it cannot be."""
    end = time.monotonic() + _READY_SECONDS
    names = [*SERVICES, "temporal", "temporal-ui"]
    found: dict[str, str] = {}
    with nullcontext() if options.json else errors.status("starting …"):
        while time.monotonic() < end:
            if process.poll() is not None:
                text = (data / "logs" / "up.log").read_text(encoding="utf-8").strip()
                raise LinealError(text.splitlines()[-1] if text else "the supervisor ended at once")
            if (data / PID_FILE).exists():
                profile = Profile.load(data / "profile.yaml")
                found = dict(check(profile, names))
                if all(state == HEALTHY for state in found.values()):
                    return profile
            time.sleep(_POLL_SECONDS)
    stop(data)
    sick = ", ".join(f"{name} ({state})" for name, state in found.items() if state != HEALTHY)
    raise LinealError(f"not healthy within {_READY_SECONDS:g} s: {sick or 'nothing started'}; see {data / 'logs'}")


def stop(data: Path) -> bool:
    """Stop the supervisor of a data folder; return whether there was one."""
    pid = _alive(data)
    if not pid:
        return False
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _DOWN_SECONDS
    while (data / PID_FILE).exists() and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    return True


def _alive(data: Path) -> int | None:
    try:
        pid = int(json.loads((data / PID_FILE).read_text(encoding="utf-8"))["supervisor"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError):
        return None
    return pid


def _loaded(profile: Profile) -> list[tuple[str, bool, str]]:
    with Client(profile) as client:
        replicas = client.services.registry.call("ListReplicas", registry_api.ListReplicasRequest()).replicas
    rows = []
    for replica in replicas:
        for endpoint in sorted({*replica.generations, *replica.refused}):
            refused = replica.refused[endpoint].reason if endpoint in replica.refused else ""
            finding = refused or f"generation {replica.generations[endpoint]:,}"
            rows.append((f"{replica.replica_id} serves the newest arms of {endpoint}", not refused, finding))
    return rows


def _show_places(data: Path, profile: Profile) -> None:
    rows = [(name, address) for name, address in profile.addresses.items() if name != "temporal-ui"]
    rows.append(("Temporal UI", f"http://{profile.address('temporal-ui')}"))
    rows += [
        ("profile", str(data / "profile.yaml")),
        ("logs", str(data / "logs")),
        ("telemetry", str(data / "telemetry")),
    ]
    show({"data": str(data), "profile": dict(profile.addresses)}, ("what", "where"), rows, title="Lineal is up")
    if profile.addresses != Profile().addresses:
        say(f"The ports are not the usual ones: set LINEAL_PROFILE={data / 'profile.yaml'} or use --connect.")


def _name(endpoint: Any) -> str:
    return f"{endpoint.endpoint.name} (retired)" if endpoint.retired else str(endpoint.endpoint.name)


def _arms(endpoint: Any) -> str:
    if endpoint.suspension:
        answering = ", its fallback answers" if endpoint.endpoint.fallback.when_suspended else ""
        return f"suspended by {endpoint.suspension}{answering}"
    names = {ArmRole.ARM_ROLE_CHAMPION: "champion", ArmRole.ARM_ROLE_SHADOW: "shadow"}
    return ", ".join(
        f"{names.get(arm.role, f'challenger {arm.share:.0%}')} {short(arm.bundle_digest)}" for arm in endpoint.arms
    )


def _coloured(state: str) -> str:
    return f"[green]{state}[/green]" if state == HEALTHY else f"[red]{state}[/red]"
