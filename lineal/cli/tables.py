"""Commands on the read tables of every service: how far they are, whether they rebuild alike, what they parked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import grpc
import typer

from lineal.api.lineage.v1 import lineage_service_pb2
from lineal.api.lineage.v1 import projection_service_pb2 as api
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceStub
from lineal.channel import open_channel
from lineal.cli.output import options, say, short, show
from lineal.client import Client
from lineal.errors import call_failed
from lineal.profile import Profile

SERVICES = ("lineage", "ingest", "features", "trainer", "registry", "monitor")
_BEHIND = 1000
_CALL_SECONDS = 600

Row = tuple[str, bool, str]


def parked(
    replay: Annotated[bool, typer.Option("--replay", help="Try them again.")] = False,
    service: Annotated[str, typer.Option(help="Only of this service.")] = "",
    projection: Annotated[str, typer.Option(help="Only of this projection.")] = "",
) -> None:
    """List the events that read tables could not apply and went on without; with --replay try them again."""
    profile = Profile.load(options.connect)
    services = [name for name in SERVICES if service in ("", name)]
    if not services:
        raise typer.BadParameter(f"{service!r} has no read tables; those that have are {', '.join(SERVICES)}")
    rows: list[tuple[str, int, str, str, int, str]] = []
    replayed = 0
    for name in services:
        with _projections(profile, name) as stub:
            names = {each.name for each in stub.ListProjections(api.ListProjectionsRequest()).projections}
            if projection and projection not in names:
                continue
            if replay:
                asked = api.ReplayParkedEventsRequest(projection=projection)
                replayed += stub.ReplayParkedEvents(asked, timeout=_CALL_SECONDS).replayed
            rows += [
                (f"{name}/{e.projection}", e.position, e.type.rpartition(".")[2], e.stream, e.tries, e.error)
                for e in _pages(stub, projection)
            ]
    if replay:
        say(f"{replayed:,} took effect, {len(rows):,} are still parked")
    columns = ("projection", "position", "type", "stream", "tries", "error")
    show([dict(zip(columns, row, strict=True)) for row in rows], columns, rows)


def databases(profile: Profile) -> list[Row]:
    """Return per database whether what it rests on can lose or damage data, as the service's own connection says."""
    rows: list[Row] = []
    for name in SERVICES:
        with _projections(profile, name) as stub:
            for found in stub.InspectDatabases(api.InspectDatabasesRequest()).databases:
                facts = [found.engine, *(f"{key} {value}" for key, value in sorted(found.settings.items()))]
                facts += [f"on {found.filesystem}"] if found.filesystem else []
                facts += [f"WAL {found.wal_bytes / 1024**2:.1f} MiB"] if found.database_bytes else []
                told = "; ".join([*found.faults, ", ".join(facts), *found.notes])
                rows.append((f"the database of {name}/{found.name} is safe", not found.faults, told))
    return rows


def standing(profile: Profile) -> list[Row]:
    """Return per projection whether it keeps up with the log, and whether it could apply every event."""
    with Client(profile) as client:
        head = client.services.lineage.call("GetHead", lineage_service_pb2.GetHeadRequest()).position
    rows: list[Row] = []
    for name in SERVICES:
        with _projections(profile, name) as stub:
            for found in stub.ListProjections(api.ListProjectionsRequest()).projections:
                behind = max(head - found.position, 0)
                rows.append((f"{name}/{found.name} keeps up", behind < _BEHIND, f"{behind:,} events behind"))
                if found.parked:
                    finding = f"{found.parked:,} could not be applied; `lineal parked` tells why"
                    rows.append((f"{name}/{found.name} has applied every event", False, finding))
    return rows


def rebuilt(profile: Profile) -> list[Row]:
    """Rebuild every projection from position 0 beside the live one, and return whether they are alike."""
    rows: list[Row] = []
    for name in SERVICES:
        with _projections(profile, name) as stub:
            answer = stub.VerifyProjections(api.VerifyProjectionsRequest(), timeout=_CALL_SECONDS)
            for found in answer.verifications:
                same = found.live_digest == found.rebuilt_digest
                finding = short(found.live_digest) if same else "the rebuilt tables differ from the live ones"
                if found.projection.parked or found.rebuilt_parked:
                    finding += f"; {found.projection.parked:,} parked, {found.rebuilt_parked:,} in the rebuild"
                where = f"{found.rows:,} rows at position {found.projection.position:,}"
                rows.append((f"{name}/{found.projection.name} rebuilds alike", same, f"{where}, {finding}"))
    return rows


def _pages(stub: ProjectionServiceStub, projection: str) -> Iterator[api.ParkedEvent]:
    request = api.ListParkedEventsRequest(projection=projection)
    while True:
        page = stub.ListParkedEvents(request)
        yield from page.events
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


@contextmanager
def _projections(profile: Profile, service: str) -> Iterator[ProjectionServiceStub]:
    with open_channel(profile.address(service)) as channel:
        try:
            yield ProjectionServiceStub(channel)
        except grpc.RpcError as error:
            raise call_failed(error, service, profile.address(service)) from error
