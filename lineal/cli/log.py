"""Commands on the log: its events, what was made from what, and how things stood in the past."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from lineal.api.lineage.v1 import lineage_service_pb2 as api
from lineal.api.lineage.v1.graph_pb2 import Edge, Node, NodeKind
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.registry.v1.endpoint_pb2 import ArmRole
from lineal.cli.look import word
from lineal.cli.moments import At, Position, Times, utc
from lineal.cli.output import moment, options, plain, progress, say, short, show
from lineal.cli.work import connect
from lineal.cloudevents import cloud_event
from lineal.impact import Impact
from lineal.openlineage import SEEN, export
from lineal.records import full_type, message_of, read

_SHOWN = 120
_MOST_EDGES = 10_000
_DIGEST_CHARACTERS = 64


class Style(StrEnum):
    """How events are written."""

    TABLE = "table"
    JSON = "json"
    CLOUDEVENTS = "cloudevents"
    OPENLINEAGE = "openlineage"


def events(
    stream: Annotated[str, typer.Option(help="Only streams that begin so, for example endpoint/.")] = "",
    event_type: Annotated[str, typer.Option("--type", help="Only this type, with or without its package.")] = "",
    after: Annotated[int, typer.Option(help="Only after this position.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", help="At most so many, the newest; 0 is all.", min=0)
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Only what was recorded at or before this time, in UTC.", formats=Times)
    ] = None,
    style: Annotated[Style, typer.Option("--format", help="The last two are JSON lines, one per event.")] = Style.TABLE,
) -> None:
    """List events of the log: the newest 30, or for OpenLineage all."""
    request = api.ListEventsRequest()
    if stream:
        request.filter.stream_prefixes.append(stream)
    if until is not None:
        request.recorded_until_time.FromDatetime(until.replace(tzinfo=UTC))
    if style == Style.OPENLINEAGE:
        if event_type or limit is not None:
            raise typer.BadParameter("OpenLineage is made from all events; --type and --limit do not go with it")
        request.filter.types.extend(message.DESCRIPTOR.full_name for message in SEEN)
        with connect() as client:
            for event in export(read(client.services.lineage, request), after):
                sys.stdout.write(json.dumps(event) + "\n")
        return
    request.after_position, request.newest_first = after, not after
    if event_type:
        request.filter.types.append(full_type(event_type))
    most = 30 if limit is None else limit
    # All of a long log is written as it comes.
    request.newest_first = request.newest_first and most > 0
    with connect() as client:
        found = read(client.services.lineage, request, most)
        if style == Style.CLOUDEVENTS:
            for record in sorted(found, key=lambda record: record.position) if most else found:
                sys.stdout.write(json.dumps(cloud_event(record)) + "\n")
            return
        records = sorted(found, key=lambda record: record.position)
    options.json = options.json or style == Style.JSON
    rows = [
        (
            record.position,
            record.recorded_time.ToDatetime(),
            record.type.rpartition(".")[2],
            record.stream,
            record.actor,
            json.dumps(payload(record), default=str)[:_SHOWN],
        )
        for record in records
    ]
    value = [plain(record) | {"payload": payload(record)} for record in records]
    show(value, ("position", "recorded", "type", "stream", "actor", "what"), rows)


def lineage(
    node: Annotated[str, typer.Argument(help="A digest (or its beginning), a run's id, or <dataset>/<batch id>.")],
    down: Annotated[
        bool, typer.Option("--down", help="What was made from it, instead of what it was made from.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="At most so many edges; 0 is all.", min=0)] = 1000,
) -> None:
    """Follow a batch, snapshot, training set, run, bundle or segment to its sources, or to all that used it."""
    direction = api.Direction.DIRECTION_IMPACT if down else api.Direction.DIRECTION_PROVENANCE
    request = api.GetLineageRequest(name=node, direction=direction)
    found: list[Edge] = []
    with connect() as client:
        while True:
            request.page_size = min(limit - len(found), _MOST_EDGES) if limit else _MOST_EDGES
            page = client.services.lineage.call("GetLineage", request)
            found += page.edges
            request.page_token = page.next_page_token
            if not page.next_page_token or (limit and len(found) >= limit):
                break
    reached = {
        (end.kind, end.name) for edge in found if not edge.possible for end in [edge.target if down else edge.source]
    }
    maybe = {edge.target.name for edge in found if edge.possible}
    counts = Counter(word(NodeKind, kind) for kind, _ in reached)
    whole = ", ".join(f"{count:,} {_plural(name, count)}" for name, count in counts.items()) or "nothing"
    title = f"{_shown(page.node)} {'has a part in' if down else 'was made from'} {whole}"
    if maybe:
        title += f"; {len(maybe):,} {_plural('segment', len(maybe))} may have used it as online features"
    rows = [
        (
            _shown(edge.source),
            _shown(edge.target) + (" (may have used it)" if edge.possible else ""),
            edge.target.position,
        )
        for edge in found
    ]
    value = {"node": page.node, "position": page.position, "counts": dict(counts), "edges": found}
    value["possible_segments"] = len(maybe)
    show(value, ("source", "made into", "position"), rows, title=title)
    if page.next_page_token:
        say(f"There is more than {limit:,} edges; --limit 0 shows all.")


def impact(
    batch: Annotated[str, typer.Argument(help="<dataset>/<batch id>.")],
    limit: Annotated[int, typer.Option("--limit", "-n", help="Stop after so many predictions; 0 is all.", min=0)] = 0,
) -> None:
    """List the sealed predictions that a batch has a part in, through their model or through looked-up features."""
    with connect() as client, progress() as display:
        task = display.add_task("predictions that used it", total=None)
        found = []
        for use in islice(Impact(client.services, batch).predictions(), limit or None):
            found.append(use)
            display.advance(task)
    through = Counter(use.through for use in found)
    ways = ", ".join(f"{count:,} through {what}" for what, count in through.most_common())
    whole = f"{len(found):,} predictions: {ways}" if found else "no prediction"
    rows = [
        (
            use.prediction_id,
            use.endpoint,
            datetime.fromtimestamp(use.event_time_micros / 1_000_000, UTC),
            short(use.bundle_digest),
            use.through,
        )
        for use in found
    ]
    columns = ("prediction", "endpoint", "event time", "bundle", "through")
    show([asdict(use) for use in found], columns, rows, title=f"{batch} has a part in {whole}")


def endpoint(
    name: Annotated[str, typer.Argument(help="Name of the endpoint.")],
    at: At = None,
    position: Position = 0,
) -> None:
    """Show what an endpoint serves, or served then: its champion, who approved it, and why."""
    with connect() as client:
        found = client.endpoint(name, as_of_position=position, as_of_time=utc(at))
    champion = found.champion
    rows: list[tuple[str, Any]] = [("generation", found.generation)]
    if found.suspension:
        rows.append(("suspended by", found.suspension))
    for arm in found.arms:
        share = f" with {arm.share:.0%}" if arm.share else ""
        rows.append((word(ArmRole, arm.role) + share, short(arm.bundle_digest)))
    if found.HasField("champion"):
        rows += [
            ("champion since", moment(champion, "start_time")),
            ("made champion by", champion.actor),
            ("because", champion.reason),
            ("asked for by", champion.requested_by),
            ("asked for because", champion.request_reason),
            ("approved by", champion.approved_by or "nobody had to: its gates decided"),
            ("approved at", moment(champion, "approve_time")),
            ("approved because", champion.approval_reason),
            ("log position", champion.position),
        ]
    when = f" at {at:%Y-%m-%d %H:%M:%S}" if at else f" at position {position:,}" if position else ""
    show(found, ("what", "value"), rows, title=f"{name}{when}")


def payload(record: EventRecord) -> Any:
    """Return the event of a record as JSON has it, None when its type is unknown here."""
    message = message_of(record)
    return None if message is None else MessageToDict(message, preserving_proto_field_name=True)


def _shown(node: Node) -> str:
    name = short(node.name) if len(node.name) == _DIGEST_CHARACTERS else node.name
    return f"{word(NodeKind, node.kind).replace('_', ' ')} {name}"


def _plural(name: str, count: int) -> str:
    text = name.replace("_", " ")
    return text if count == 1 else "batches" if text == "batch" else f"{text}s"
