"""ProjectionService, which every service with read tables offers."""

from collections.abc import Sequence
from typing import Any

from chassis.projection import ProjectionRunner
from lineal.api.lineage.v1.projection_service_pb2 import (
    ListProjectionsRequest,
    ListProjectionsResponse,
    Projection,
    ProjectionVerification,
    VerifyProjectionsRequest,
    VerifyProjectionsResponse,
)
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceServicer


class ProjectionServicer(ProjectionServiceServicer):
    """Tells about the projections of this process, and verifies them."""

    def __init__(self, runners: Sequence[ProjectionRunner]) -> None:
        self._runners = runners

    async def ListProjections(self, _request: ListProjectionsRequest, _context: Any) -> ListProjectionsResponse:
        """List the projections and how far each has read."""
        return ListProjectionsResponse(
            projections=[
                Projection(name=r.projection.name, version=r.projection.version, position=r.position)
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
                    projection=Projection(name=found.name, version=found.version, position=found.position),
                    live_digest=found.live_digest,
                    rebuilt_digest=found.rebuilt_digest,
                    rows=found.rows,
                )
            )
        return response
