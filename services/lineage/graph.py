"""Walks the lineage graph, from a thing to what it was made from or to what was made from it."""

from collections.abc import Iterator

from sqlalchemy import Connection, and_, or_, select

from chassis.errors import FieldViolation, InvalidArgument, NotFound
from chassis.projection import ProjectionRunner
from lineal.api.lineage.v1.graph_pb2 import Edge, Node, NodeKind
from lineal.api.lineage.v1.lineage_service_pb2 import Direction, GetLineageRequest, GetLineageResponse
from services.lineage.projections import Key, edges, nodes

_PAGE = 1000
_MAX_PAGE = 10_000
_CHUNK = 200

# Source, target and the position at which it came about.
Link = tuple[Key, Key, int]


class NodeNotFound(NotFound):
    """No such thing in the lineage graph."""


class Graph:
    """Answers GetLineage from the projection's tables."""

    def __init__(self, runner: ProjectionRunner) -> None:
        self._runner = runner

    async def walk(self, request: GetLineageRequest) -> GetLineageResponse:
        """Return a page of edges in breadth-first order; all pages are as of the position of the first."""
        if not request.name or request.kind == NodeKind.NODE_KIND_UNSPECIFIED:
            raise InvalidArgument(
                "no node is named", [FieldViolation("name", "give the kind of the node and its digest or id")]
            )
        until, skip = _token(request.page_token)
        await self._runner.wait_for(max(request.min_position, until))
        until = until or self._runner.position
        limit = min(request.page_size or _PAGE, _MAX_PAGE)
        return await self._runner.query(lambda connection: _page(connection, request, until, skip, limit), until)


def _page(connection: Connection, request: GetLineageRequest, until: int, skip: int, limit: int) -> GetLineageResponse:
    start: Key = request.kind, request.name
    if start not in _nodes(connection, {start}, until):
        raise NodeNotFound(
            f"the lineage graph has no {NodeKind.Name(request.kind).removeprefix('NODE_KIND_').lower()} "
            f"{request.name} at position {until}"
        )
    impact = request.direction == Direction.DIRECTION_IMPACT
    page: list[Link] = []
    more = False
    for n, link in enumerate(_breadth_first(connection, start, until, impact)):
        if n >= skip + limit:
            more = True
            break
        if n >= skip:
            page.append(link)
    known = _nodes(connection, {start, *(key for source, target, _ in page for key in (source, target))}, until)
    return GetLineageResponse(
        node=known[start],
        edges=[Edge(source=known[source], target=known[target]) for source, target, _ in page],
        next_page_token=f"{until}:{skip + limit}" if more else "",
        position=until,
    )


def _breadth_first(connection: Connection, start: Key, until: int, impact: bool) -> Iterator[Link]:
    seen, frontier = {start}, [start]
    while frontier:
        found = sorted(_links(connection, frontier, until, impact))
        yield from found
        reached = {link[1] if impact else link[0] for link in found}
        frontier = sorted(reached - seen)
        seen |= reached


def _links(connection: Connection, frontier: list[Key], until: int, impact: bool) -> Iterator[Link]:
    side = "source" if impact else "target"
    for chunk in _chunks(frontier):
        here = or_(*(and_(edges.c[f"{side}_kind"] == k, edges.c[f"{side}_name"] == n) for k, n in chunk))
        for row in connection.execute(select(edges).where(here, edges.c.position <= until)).mappings():
            source = (row["source_kind"], row["source_name"])
            yield source, (row["target_kind"], row["target_name"]), row["position"]
    wanted = NodeKind.NODE_KIND_BATCH if impact else NodeKind.NODE_KIND_SNAPSHOT
    for key in frontier:
        if key[0] == wanted:
            yield from _contained(connection, key, until, impact)


def _contained(connection: Connection, key: Key, until: int, impact: bool) -> Iterator[Link]:
    # A snapshot holds the batches of its dataset that were accepted at or before its position.
    this = connection.execute(select(nodes).where(nodes.c.kind == key[0], nodes.c.name == key[1])).mappings().one()
    if this["as_of"] is None:
        return
    other = NodeKind.NODE_KIND_SNAPSHOT if impact else NodeKind.NODE_KIND_BATCH
    reach = nodes.c.as_of >= this["as_of"] if impact else nodes.c.as_of <= this["as_of"]
    query = select(nodes).where(nodes.c.dataset == this["dataset"], nodes.c.kind == other, reach)
    for row in connection.execute(query.where(nodes.c.position <= until)).mappings():
        found = (row["kind"], row["name"])
        position = max(row["position"], this["position"])
        yield (key, found, position) if impact else (found, key, position)


def _nodes(connection: Connection, keys: set[Key], until: int) -> dict[Key, Node]:
    found: dict[Key, Node] = {}
    for chunk in _chunks(sorted(keys)):
        here = or_(*(and_(nodes.c.kind == kind, nodes.c.name == name) for kind, name in chunk))
        for row in connection.execute(select(nodes).where(here, nodes.c.position <= until)).mappings():
            kind = NodeKind.ValueType(row["kind"])
            node = Node(kind=kind, name=row["name"], position=row["position"], type=row["type"])
            found[(row["kind"], row["name"])] = node
    return found


def _chunks(keys: list[Key]) -> Iterator[list[Key]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def _token(token: str) -> tuple[int, int]:
    if not token:
        return 0, 0
    until, _, skip = token.partition(":")
    if not (until.isdigit() and skip.isdigit()):
        raise InvalidArgument(
            "the page token is not one of ours",
            [FieldViolation("page_token", "must be the next_page_token of the page before, or empty")],
        )
    return int(until), int(skip)
