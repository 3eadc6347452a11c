"""Channels between services: those of `lineal.channel`, with the caller, the trace and a deadline carried along."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from chassis.calls import ClientCall, client_metadata, client_timeout
from chassis.telemetry import Telemetry
from lineal.channel import open_aio_channel


def open_service_channel(
    address: str, *, service: str, telemetry: Telemetry, deadline_seconds: float = 30.0
) -> grpc.aio.Channel:
    """Open a channel to another service; `service` is who calls, `deadline_seconds` is for unary calls without one."""
    return _ServiceChannel(open_aio_channel(address), address, service, telemetry, deadline_seconds)


class _ServiceChannel(grpc.aio.Channel):
    """A channel that puts around each call what interceptors of grpc.aio would, at as much cost as the call itself."""

    def __init__(
        self, channel: grpc.aio.Channel, address: str, service: str, telemetry: Telemetry, deadline: float
    ) -> None:
        self._channel: Any = channel
        self._address = address
        self._service = service
        self._telemetry = telemetry
        self._deadline = deadline

    def unary_unary(self, method: str, *coders: Any, **named: Any) -> Any:
        """Return what makes calls with one request and one answer."""
        make = self._channel.unary_unary(method, *coders, **named)

        def call(request: Any, *, timeout: float | None = None, metadata: Any = None, **options: Any) -> Awaitable[Any]:
            return self._single(make, method, request, client_timeout(timeout, self._deadline), metadata, options)

        return call

    def stream_unary(self, method: str, *coders: Any, **named: Any) -> Any:
        """Return what makes uploads: they take as long as they need, so they get no deadline here."""
        make = self._channel.stream_unary(method, *coders, **named)

        def call(
            requests: Any = None, *, timeout: float | None = None, metadata: Any = None, **options: Any
        ) -> Awaitable[Any]:
            return self._single(make, method, requests, timeout, metadata, options)

        return call

    def unary_stream(self, method: str, *coders: Any, **named: Any) -> Any:
        """Return what makes downloads."""
        return self._streamed(self._channel.unary_stream(method, *coders, **named))

    def stream_stream(self, method: str, *coders: Any, **named: Any) -> Any:
        """Return what makes calls with streams both ways."""
        return self._streamed(self._channel.stream_stream(method, *coders, **named))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return how the connection is."""
        state: grpc.ChannelConnectivity = self._channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return once the connection is in another state."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return once there is a connection."""
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel."""
        await self._channel.close(grace)

    async def __aenter__(self) -> "_ServiceChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _single(
        self,
        make: Callable[..., Any],
        method: str,
        sent: Any,
        timeout: float | None,
        metadata: Any,
        options: dict[str, Any],
    ) -> Any:
        with ClientCall(self._telemetry, method, self._address) as call:
            try:
                return await make(sent, timeout=timeout, metadata=self._metadata(metadata), **options)
            except grpc.aio.AioRpcError as error:
                call.code = error.code().name
                raise
            except asyncio.CancelledError:
                # Who waits has given up; grpc.aio tells the other service.
                call.code = "CANCELLED"
                raise

    def _streamed(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def call(sent: Any = None, *, metadata: Any = None, **options: Any) -> Any:
            # A stream can be open for days, so it has no span of its own; the server's has the trace it was opened in.
            return make(sent, metadata=self._metadata(metadata), **options)

        return call

    def _metadata(self, given: Any) -> grpc.aio.Metadata:
        metadata: Any = grpc.aio.Metadata(*client_metadata(self._service))
        for key, value in given or ():
            # What the code that calls says itself wins.
            metadata.set_all(key, [value]) if key in metadata else metadata.add(key, value)
        return metadata  # type: ignore[no-any-return]
