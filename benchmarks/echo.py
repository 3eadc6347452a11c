"""A service that answers appends at once and keeps nothing: what gRPC, asyncio and the chassis cost by themselves.

`python -m benchmarks.echo` reads the settings of lineage.
"""

from typing import Any

from chassis.server import Harness, run
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, AppendEventsResponse
from lineal.api.lineage.v1.lineage_service_pb2_grpc import add_LineageServiceServicer_to_server
from services.lineage.servicer import LineageServicer
from services.lineage.settings import Settings


class _Echo(LineageServicer):
    def __init__(self) -> None:
        pass

    async def AppendEvents(self, request: AppendEventsRequest, context: Any) -> AppendEventsResponse:  # noqa: ARG002
        response = AppendEventsResponse(position=len(request.events))
        for n, event in enumerate(request.events, start=1):
            response.events.add(event_id=event.event_id, position=n, revision=n)
        return response


async def _build(harness: Harness) -> None:
    harness.add_servicer(add_LineageServiceServicer_to_server, _Echo(), "lineal.api.lineage.v1.LineageService")


if __name__ == "__main__":
    run("echo", Settings(), _build)
