"""ProjectionService, which every service with read tables offers."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from chassis.database_inspection import Inspection
from chassis.errors import NotFound
from chassis.paging import last_key, page_size, page_token
from chassis.projection import ProjectionRunner
from chassis.projection_state import parked_count
from lineal.api.lineage.v1.projection_service_pb2 import (
    DatabaseInspection,
    InspectDatabasesRequest,
    InspectDatabasesResponse,
    ListParkedEventsRequest,
    ListParkedEventsResponse,
    ListProjectionsRequest,
    ListProjectionsResponse,
    ParkedEvent,
    Projection,
    ProjectionVerification,
    ReplayParkedEventsRequest,
    ReplayParkedEventsResponse,
    VerifyProjectionsRequest,
    VerifyProjectionsResponse,
)
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceServicer


class ProjectionUnknown(NotFound):
    """The service has no projection of that name."""


class ProjectionServicer(ProjectionServiceServicer):
    """Tells about the projections of this process, verifies them, and tries their parked events again."""

    def __init__(
        self, runners: Sequence[ProjectionRunner], inspections: Sequence[Callable[[], Awaitable[Inspection]]] = ()
    ) -> None:
        self._runners = runners
        self._inspections = inspections

    async def ListProjections(self, _request: ListProjectionsRequest, _context: Any) -> ListProjectionsResponse:
        """List the projections and how far each has read."""
        return ListProjectionsResponse(
            projections=[
                Projection(
                    name=r.projection.name,
                    version=r.projection.version,
                    position=r.position,
                    parked=await r.query(parked_count),
                )
                for r in self._runners
            ]
        )

    async def VerifyProjections(self, _request: VerifyProjectionsRequest, _context: Any) -> VerifyProjectionsResponse:
        """Rebuild each projection beside the live one and compare."""
        response = VerifyProjectionsResponse()
        for runner in self._runners:
            found = await runner.verify()
            response.verifications.append(
                ProjectionVerification(
                    projection=Projection(
                        name=found.name, version=found.version, position=found.position, parked=found.live_parked
                    ),
                    live_digest=found.live_digest,
                    rebuilt_digest=found.rebuilt_digest,
                    rows=found.rows,
                    rebuilt_parked=found.rebuilt_parked,
                )
            )
        return response

    async def ListParkedEvents(self, request: ListParkedEventsRequest, _context: Any) -> ListParkedEventsResponse:
        """List what could not be applied."""
        size, after = page_size(request.page_size), last_key(request.page_token)
        keyed = [
            (f"{runner.projection.name} {parked.position:020}", runner.projection.name, parked)
            for runner in self._named(request.projection)
            for parked in await runner.parked()
        ]
        listed = [entry for entry in sorted(keyed, key=lambda entry: entry[0]) if entry[0] > after]
        return ListParkedEventsResponse(
            events=[
                ParkedEvent(
                    projection=name,
                    position=parked.position,
                    stream=parked.stream,
                    type=parked.type,
                    tries=parked.tries,
                    error=parked.error,
                )
                for _, name, parked in listed[:size]
            ],
            next_page_token=page_token(listed[size - 1][0]) if len(listed) > size else "",
        )

    async def ReplayParkedEvents(self, request: ReplayParkedEventsRequest, _context: Any) -> ReplayParkedEventsResponse:
        """Try parked events again."""
        response = ReplayParkedEventsResponse()
        for runner in self._named(request.projection):
            response.replayed += len(await runner.replay(request.positions))
            response.parked += await runner.query(parked_count)
        return response

    async def InspectDatabases(self, _request: InspectDatabasesRequest, _context: Any) -> InspectDatabasesResponse:
        """Ask the databases of this service how they keep what they are given."""
        found = [await inspect() for inspect in self._inspections]
        found += [await runner.inspect() for runner in self._runners]
        return InspectDatabasesResponse(databases=[DatabaseInspection(**vars(each)) for each in found])

    def _named(self, name: str) -> list[ProjectionRunner]:
        found = [runner for runner in self._runners if name in ("", runner.projection.name)]
        if not found:
            known = ", ".join(runner.projection.name for runner in self._runners)
            raise ProjectionUnknown(f"there is no projection {name!r} here, but {known}")
        return found
