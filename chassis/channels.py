"""Channels between services: those of `lineal.channel`, with the caller, the trace and a deadline carried along."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from chassis.calls import client_call, client_metadata, client_timeout
from chassis.telemetry import Telemetry
from lineal.channel import open_aio_channel


def open_service_channel(
    address: str, *, service: str, telemetry: Telemetry, deadline_seconds: float = 30.0
) -> grpc.aio.Channel:
    """Open a channel to another service; `service` is who calls, `deadline_seconds` is for unary calls without one."""
    shared = _Shared(address, service, telemetry, deadline_seconds)
    return open_aio_channel(
        address, [_UnaryUnary(shared), _UnaryStream(shared), _StreamUnary(shared), _StreamStream(shared)]
    )


class _Shared:
    def __init__(self, address: str, service: str, telemetry: Telemetry, deadline: float) -> None:
        self.address = address
        self.service = service
        self.telemetry = telemetry
        self.deadline = deadline

    def details(self, given: grpc.aio.ClientCallDetails, timeout: float | None) -> grpc.aio.ClientCallDetails:
        metadata: Any = grpc.aio.Metadata(*client_metadata(self.service))
        for key, value in given.metadata or ():
            # What the code that calls says itself wins.
            metadata.set_all(key, [value]) if key in metadata else metadata.add(key, value)
        return grpc.aio.ClientCallDetails(given.method, timeout, metadata, given.credentials, given.wait_for_ready)

    async def single(
        self,
        continuation: Callable[..., Awaitable[Any]],
        given: grpc.aio.ClientCallDetails,
        request: Any,
        default: bool,
    ) -> Any:
        timeout = client_timeout(given.timeout, self.deadline) if default else given.timeout
        with client_call(self.telemetry, _text(given.method), self.address) as call:
            made = await continuation(self.details(given, timeout), request)
            try:
                call.code = (await made.code()).name
            except asyncio.CancelledError:
                # Who waits has given up; nothing else would tell the other service.
                call.code = "CANCELLED"
                made.cancel()
                raise
            return made

    async def streamed(
        self, continuation: Callable[..., Awaitable[Any]], given: grpc.aio.ClientCallDetails, request: Any
    ) -> AsyncIterator[Any]:
        # A stream can be open for days, so it has no span of its own; the server's has the trace it was opened in.
        made: Any = await continuation(self.details(given, given.timeout), request)
        return made  # type: ignore[no-any-return]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    async def intercept_unary_unary(
        self, continuation: Callable[..., Awaitable[Any]], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await self._shared.single(continuation, client_call_details, request, default=True)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    async def intercept_stream_unary(
        self,
        continuation: Callable[..., Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: AsyncIterable[Any] | Any,
    ) -> Any:
        return await self._shared.single(continuation, client_call_details, request_iterator, default=False)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    async def intercept_unary_stream(
        self, continuation: Callable[..., Awaitable[Any]], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await self._shared.streamed(continuation, client_call_details, request)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    async def intercept_stream_stream(
        self,
        continuation: Callable[..., Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: AsyncIterable[Any] | Any,
    ) -> Any:
        return await self._shared.streamed(continuation, client_call_details, request_iterator)


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method
