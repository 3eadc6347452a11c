"""Commands that keep a log sound over the years."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import grpc
import typer
from google.protobuf.message import Message

from lineal.api.lineage.v1 import keeping_service_pb2 as api
from lineal.cli.moments import Times
from lineal.cli.output import moment, progress, say, short, show
from lineal.cli.tables import Row
from lineal.cli.work import connect
from lineal.client import Client
from lineal.errors import LinealError, call_failed
from lineal.profile import Profile
from lineal.project import parse_duration

_STAGES = {"log": "events, tree and checkpoints are as stored", "artifacts": "artifacts are as named"}


def seal(
    until: Annotated[str, typer.Option(help="Position of the last event to seal, or a time in UTC.")],
) -> None:
    """Move the records of old events from the database to Parquet files among the artifacts; proofs stay valid."""
    request = api.SealEventsRequest()
    if until.isdigit():
        request.position = int(until)
    else:
        request.recorded_time.FromDatetime(_time(until))
    ranges: list[api.SealedRange] = []
    with connect() as client, progress() as display:
        keeping = client.services.keeping
        task = display.add_task("sealing", total=None)
        try:
            for response in keeping.stub.SealEvents(request):
                ranges.append(response.range)
                display.update(task, completed=response.range.last_position)
        except grpc.RpcError as error:
            raise call_failed(error, keeping.name, keeping.address) from error
    rows = [
        (
            f"{found.first_position:,} to {found.last_position:,}",
            short(found.digest),
            f"{found.record_bytes:,}",
            f"{found.file_bytes:,}",
        )
        for found in ranges
    ]
    if not ranges:
        say("nothing is left to seal up to there")
    show(ranges, ("events", "file", "bytes in the database", "in the file"), rows)


def collect(
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; else they are only counted.")] = False,
    older_than: Annotated[
        str, typer.Option(help="How long ago they must have been stored, such as 36h or 7d; at least 1h.")
    ] = "24h",
) -> None:
    """Count the artifacts that no event names and what builds and writers left behind; with --delete delete them."""
    request = api.CollectArtifactsRequest(delete=delete)
    try:
        request.older_than.FromTimedelta(parse_duration(older_than))
    except ValueError as error:
        raise LinealError(f"--older-than: {error}") from error
    unnamed: list[api.UnnamedArtifact] = []
    left: list[api.Leftover] = []
    with connect() as client, progress() as display:
        keeping = client.services.keeping
        task = display.add_task("reading what is named")
        try:
            for response in keeping.stub.CollectArtifacts(request):
                unnamed += response.unnamed
                left += response.leftovers
                display.update(task, completed=response.examined, total=response.total)
        except grpc.RpcError as error:
            raise call_failed(error, keeping.name, keeping.address) from error
    if not unnamed:
        say("every artifact of that age is named")
    elif not delete:
        say(f"{len(unnamed):,} artifacts are named by nothing; `lineal collect --delete` deletes them")
    rows = [
        (f"{kind}, deleted" if delete else kind, len(found), sum(each.bytes for each in found), _oldest(found, time))
        for kind, found, time in (("unnamed", unnamed, "stored_time"), ("left behind", left, "written_time"))
        if found
    ]
    show([*unnamed, *left], ("", "count", "bytes", "oldest"), rows)


def _oldest(found: Sequence[Message], name: str) -> datetime | None:
    return min((moment(each, name) for each in found), key=str)


def _time(text: str) -> datetime:
    for form in Times:
        with suppress(ValueError):
            return datetime.strptime(text, form).replace(tzinfo=UTC)
    raise LinealError(f"--until: {text!r} is neither a position nor a time such as 2026-11-20 14:05")


def verified(profile: Profile) -> list[Row]:
    """Let lineage read everything that is stored; return what it found, by layer."""
    rows: list[Row] = []
    examined = dict.fromkeys(_STAGES, 0)
    with Client(profile) as client, progress() as display:
        keeping = client.services.keeping
        task = display.add_task("reading what is stored")
        try:
            for response in keeping.stub.VerifyLog(api.VerifyLogRequest()):
                examined[response.stage] = response.examined
                display.update(task, completed=response.examined, total=response.total)
                rows += [(f"{finding.layer} is as stored", False, finding.message) for finding in response.findings]
        except grpc.RpcError as error:
            raise call_failed(error, keeping.name, keeping.address) from error
    if rows:
        return rows
    return [(_STAGES[stage], True, f"{count:,} examined") for stage, count in examined.items()]
