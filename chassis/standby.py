"""What a process answers that waits for its turn: NOT_SERVING to health checks, UNAVAILABLE to everything else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from chassis.errors import Unavailable
from chassis.interceptors import Methods
from chassis.settings import ServiceSettings
from chassis.telemetry import Telemetry


class StandingBy(Unavailable):
    """This process waits for another one's end."""


class _Refusal(grpc.GenericRpcHandler):
    def __init__(self, why: str) -> None:
        self._why = why

    def service(self, _handler_call_details: grpc.HandlerCallDetails) -> Any:
        # As a stream of streams it fits each of the four kinds of calls.
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(self, _requests: Any, _context: Any) -> None:
        raise StandingBy(self._why)


@asynccontextmanager
async def standing_by(settings: ServiceSettings, telemetry: Telemetry, why: str) -> AsyncIterator[str]:
    """Listen on the service's address within the block and refuse, telling why; yield the address."""
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    methods = Methods(telemetry, settings.deadline_seconds)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, methods)
    methods.add_generic_rpc_handlers((_Refusal(why),))
    server = grpc.aio.server(handlers=[methods], options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port(settings.address(settings.port))
    await server.start()
    try:
        yield settings.address(port)
    finally:
        # The address is free for the service itself when this returns.
        await server.stop(None)
