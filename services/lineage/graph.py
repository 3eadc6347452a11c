"""Walks the lineage graph, from a thing to what it was made from or to what was made from it.

The database finds what is reachable and hands over one page of edges, so that memory is that of a page however many
edges there are. Kinds of nodes are numbered from raw rows to predictions, so that order by kind is from near to far.
Segments are many and lead nowhere, batches are many and come from nowhere: both are only listed, never walked through.
Segments whose predictions looked features up from a batch's dataset come last on the way down, as possible: which rows
a prediction used can be asked for each (`ExplainFeatures` of features), and would be too much to keep for all.
"""

import base64
import binascii
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, Select, Text, and_, cast, func, literal, select, tuple_

from chassis.errors import FieldViolation, InvalidArgument, NotFound
from chassis.projection import ProjectionRunner
from lineal.api.lineage.v1.graph_pb2 import Edge, Node, NodeKind
from lineal.api.lineage.v1.lineage_service_pb2 import Direction, GetLineageRequest, GetLineageResponse
from services.lineage.projections import Key, edges, lookups, nodes

_PAGE = 1000
_MAX_PAGE = 10_000
_CHUNK = 500
_LEAST_CHARACTERS = 8
_KINDS = [number for number in NodeKind.values() if number]

# The part of the way down whose edges are possible, not certain.
_POSSIBLE = 2
# A source, a target, and where the next page goes on.
Link = tuple[Key, Key, list[Any]]
# The near and the far node of an edge, and the number of a batch among those of its snapshot.
Walk = Generator[tuple[Key, Key, int], None, None]


class NodeNotFound(NotFound):
    """No such thing in the lineage graph."""


class NodeAmbiguous(InvalidArgument):
    """The beginning of a name fits several things."""


@dataclass(frozen=True)
class _Place:
    """Where a page begins: in which part of the walk, after which key; `until` is that of the first page."""

    until: int = 0
    part: int = 0
    after: tuple[Any, ...] = ()


class Graph:
    """Answers GetLineage from the projection's tables."""

    def __init__(self, runner: ProjectionRunner) -> None:
        self._runner = runner

    async def walk(self, request: GetLineageRequest) -> GetLineageResponse:
        """Return a page of edges from near to far; all pages are as of the position of the first.

        Raises NodeNotFound, NodeAmbiguous.
        """
        if not request.name:
            raise InvalidArgument("no node is named", [FieldViolation("name", "give the digest or id of the node")])
        place = _place(request.page_token)
        await self._runner.wait_for(max(request.min_position, place.until))
        until = place.until or self._runner.position
        limit = min(request.page_size or _PAGE, _MAX_PAGE)
        return await self._runner.query(lambda connection: _page(connection, request, until, place, limit), until)


def _page(
    connection: Connection, request: GetLineageRequest, until: int, place: _Place, limit: int
) -> GetLineageResponse:
    start = _named(connection, request, until)
    impact = request.direction == Direction.DIRECTION_IMPACT
    # What a batch is in comes first on the way down, the batches of snapshots last on the way up.
    parts = (_snapshots_with, _down, _looked_up) if impact else (_up, _batches_of)
    page: list[Link] = []
    token = ""
    for number in range(place.part, len(parts)):
        if token:
            break
        after = place.after if number == place.part else ()
        walk = parts[number](connection, start, until, after, limit + 1)
        with closing(walk):
            for near, far, order in walk:
                if len(page) == limit:
                    token = _token(until, page[-1][2])
                    break
                page.append(((near, far) if impact else (far, near)) + ([number, *near, *far, order],))
    known = _nodes(connection, {start, *(key for source, target, _ in page for key in (source, target))}, until)
    return GetLineageResponse(
        node=known[start],
        edges=[
            Edge(source=known[source], target=known[target], possible=impact and place[0] == _POSSIBLE)
            for source, target, place in page
        ],
        next_page_token=token,
        position=until,
    )


def _named(connection: Connection, request: GetLineageRequest, until: int) -> Key:
    kinds = [request.kind] if request.kind else _KINDS
    there = select(nodes.c.kind, nodes.c.name).where(nodes.c.kind.in_(kinds), nodes.c.position <= until)
    found = connection.execute(there.where(nodes.c.name == request.name).limit(2)).all()
    if not found and len(request.name) >= _LEAST_CHARACTERS:
        begins = func.substr(nodes.c.name, 1, len(request.name)) == request.name
        found = connection.execute(there.where(begins).limit(2)).all()
    if len(found) > 1:
        raise NodeAmbiguous(
            f"{request.name!r} fits several nodes of the lineage graph",
            [FieldViolation("name", "give the whole name, and the kind")],
        )
    if not found:
        kind = NodeKind.Name(request.kind).removeprefix("NODE_KIND_").lower() if request.kind else "node"
        raise NodeNotFound(f"the lineage graph has no {kind} {request.name} at position {until}")
    return found[0][0], found[0][1]


def _reached(
    connection: Connection, start: Key, until: int, impact: bool, near: Key | None
) -> Generator[Key, None, None]:
    """Yield what is walked through, from near to far, from the node `near` on: no segments and no batches."""
    first = select(cast(literal(start[0]), Integer).label("kind"), cast(literal(start[1]), Text).label("name"))
    if impact and start[0] == NodeKind.NODE_KIND_BATCH:
        first = _holding(start, until)
    reached = first.cte("reached", recursive=True)
    here, there = ("source", "target") if impact else ("target", "source")
    onwards = and_(edges.c[f"{here}_kind"] == reached.c.kind, edges.c[f"{here}_name"] == reached.c.name)
    further = select(edges.c[f"{there}_kind"], edges.c[f"{there}_name"]).join(reached, onwards)
    walked = edges.c[f"{there}_kind"] != NodeKind.NODE_KIND_SEGMENT
    reached = reached.union(further.where(edges.c.position <= until, walked))
    sign = 1 if impact else -1
    query = select(reached.c.kind, reached.c.name).order_by(sign * reached.c.kind, reached.c.name)
    if near:
        query = query.where(tuple_(sign * reached.c.kind, reached.c.name) >= tuple_(literal(sign * near[0]), near[1]))
    with closing(connection.execute(query, execution_options={"yield_per": _CHUNK})) as rows:
        yield from map(tuple, rows)


def _down(connection: Connection, start: Key, until: int, after: tuple[Any, ...], limit: int) -> Walk:
    return _along("source", "target", connection, start, until, after, limit)


def _up(connection: Connection, start: Key, until: int, after: tuple[Any, ...], limit: int) -> Walk:
    return _along("target", "source", connection, start, until, after, limit)


def _along(
    here: str, there: str, connection: Connection, start: Key, until: int, after: tuple[Any, ...], limit: int
) -> Walk:
    last = after[:2] if after else None
    order = edges.c[f"{there}_kind"], edges.c[f"{there}_name"]
    with closing(_reached(connection, start, until, here == "source", last)) as reached:
        for near in reached:
            query = select(*order).where(edges.c[f"{here}_kind"] == near[0], edges.c[f"{here}_name"] == near[1])
            if near == last:
                query = query.where(tuple_(*order) > tuple_(literal(after[2]), literal(after[3])))
            for kind, name in connection.execute(query.where(edges.c.position <= until).order_by(*order).limit(limit)):
                yield near, (kind, name), 0


def _holding(batch: Key, until: int) -> Select[Any]:
    """Select the snapshots that a batch is in."""
    accepted = select(nodes.c.dataset, nodes.c.as_of).where(nodes.c.kind == batch[0], nodes.c.name == batch[1])
    this = accepted.subquery()
    holds = and_(nodes.c.dataset == this.c.dataset, nodes.c.as_of >= this.c.as_of)
    query = select(nodes.c.kind.label("kind"), nodes.c.name.label("name")).join(this, holds)
    return query.where(nodes.c.kind == NodeKind.NODE_KIND_SNAPSHOT, nodes.c.position <= until)


def _snapshots_with(connection: Connection, start: Key, until: int, after: tuple[Any, ...], limit: int) -> Walk:
    if start[0] != NodeKind.NODE_KIND_BATCH:
        return
    query = _holding(start, until).order_by(nodes.c.name).limit(limit)
    for kind, name in connection.execute(query.where(nodes.c.name > after[3]) if after else query):
        yield start, (kind, name), 0


def _looked_up(connection: Connection, start: Key, until: int, after: tuple[Any, ...], limit: int) -> Walk:
    """Yield the segments whose predictions may have used a batch: they looked its dataset up when it was there."""
    if start[0] != NodeKind.NODE_KIND_BATCH:
        return
    accepted = select(nodes.c.dataset, nodes.c.as_of).where(nodes.c.kind == start[0], nodes.c.name == start[1])
    this = accepted.subquery()
    may = and_(lookups.c.dataset == this.c.dataset, lookups.c.reach >= this.c.as_of)
    query = select(lookups.c.segment).join(this, may).where(lookups.c.position <= until)
    if after:
        query = query.where(lookups.c.segment > after[3])
    for name in connection.execute(query.order_by(lookups.c.segment).limit(limit)).scalars():
        yield start, (NodeKind.NODE_KIND_SEGMENT, name), 0


def _batches_of(connection: Connection, start: Key, until: int, after: tuple[Any, ...], limit: int) -> Walk:
    last = after[:2] if after else None
    with closing(_reached(connection, start, until, False, last)) as reached:
        for near in reached:
            if near[0] == NodeKind.NODE_KIND_SNAPSHOT:
                for found, as_of in _held(connection, near, until, after[4] if near == last else 0, limit):
                    yield near, found, as_of


def _held(connection: Connection, snapshot: Key, until: int, after: int, limit: int) -> Iterator[tuple[Key, int]]:
    this = select(nodes.c.dataset, nodes.c.as_of).where(nodes.c.kind == snapshot[0], nodes.c.name == snapshot[1])
    dataset, reach = connection.execute(this).one()
    if reach is None:
        return
    query = select(nodes.c.kind, nodes.c.name, nodes.c.as_of).where(
        nodes.c.dataset == dataset,
        nodes.c.kind == NodeKind.NODE_KIND_BATCH,
        nodes.c.as_of > after,
        nodes.c.as_of <= min(reach, until),
    )
    for kind, name, as_of in connection.execute(query.order_by(nodes.c.as_of).limit(limit)):
        yield (kind, name), as_of


def _nodes(connection: Connection, keys: set[Key], until: int) -> dict[Key, Node]:
    found: dict[Key, Node] = {}
    for kind in _KINDS:
        for names in _chunks(sorted(name for other, name in keys if other == kind)):
            here = nodes.c.kind == kind, nodes.c.name.in_(names), nodes.c.position <= until
            for name, position, type_ in connection.execute(
                select(nodes.c.name, nodes.c.position, nodes.c.type).where(*here)
            ):
                number = NodeKind.ValueType(kind)
                found[(kind, name)] = Node(kind=number, name=name, position=position, type=type_)
    return found


def _chunks(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _CHUNK):
        yield names[start : start + _CHUNK]


def _token(until: int, after: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps([until, *after]).encode()).decode()


def _place(token: str) -> _Place:
    if not token:
        return _Place()
    try:
        until, part, *after = json.loads(base64.urlsafe_b64decode(token))
        fits = [type(value) for value in (until, part, *after)] == [int, int, int, str, int, str, int]
    except (binascii.Error, ValueError, TypeError):
        fits = False
    if not fits or part not in (0, 1, _POSSIBLE):
        raise InvalidArgument(
            "the page token is not one of ours",
            [FieldViolation("page_token", "must be the next_page_token of the page before, or empty")],
        )
    return _Place(until, part, tuple(after))
