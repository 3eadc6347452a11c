"""gRPC channels as every client of Lineal opens them: keepalive, quick reconnection, retries of what may pass.

A call waits for a server that is not there yet or restarts, as long as its deadline allows: gRPC itself makes at most 5
attempts, but with `waitForReady` an attempt starts only once there is a connection, so five are plenty. Every command
carries a request id, so repeating one is safe. UNAVAILABLE is what a server says that is not ready; with CANCELLED its
gRPC, when it stops, answers calls that had arrived and not begun. Deadlines are the caller's: `DefaultDeadline` gives
one to unary calls that have none.

An address may be several, `10.0.0.1:7401,10.0.0.2:7401`, or a DNS name of several, `dns:///lineage:7401`, of which
calls go to those that say SERVING: that is how a client holds a writer of the log and its standby.
"""

import getpass
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

DEFAULT_DEADLINE_SECONDS = 30.0
# What another attempt may not meet again.
TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

_CONFIG: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{}],
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": [code.name for code in TRANSIENT],
            },
        },
        # A health check asks how things are now.
        {"name": [{"service": "grpc.health.v1.Health"}], "waitForReady": False},
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}
_SEVERAL = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
SERVICE_CONFIG = json.dumps(_CONFIG)


def channel_options(
    max_message_bytes: int = 16 * 1024 * 1024, service_config: str = SERVICE_CONFIG
) -> list[tuple[str, Any]]:
    """Return the gRPC options of a client channel."""
    return [
        ("grpc.service_config", service_config),
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 3_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # In spite of its name this is how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Channels of one process do not share a connection, so closing one never stalls another.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]


def person() -> str:
    """Return the actor of a command from this machine's user: `person:<login name>`."""
    try:
        return f"person:{getpass.getuser()}"
    except (KeyError, OSError):
        return "person:unknown"


class DefaultDeadline(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Give blocking unary-response calls without a deadline one, and every call some metadata."""

    def __init__(self, seconds: float = DEFAULT_DEADLINE_SECONDS, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._seconds = seconds
        self._metadata = tuple(metadata)

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """Add the deadline to a unary call."""
        return continuation(self._details(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Add the deadline to an upload."""
        return continuation(self._details(client_call_details), request_iterator)

    def _details(self, given: Any) -> "_CallDetails":
        return _CallDetails(given, self._seconds if given.timeout is None else given.timeout, self._metadata)


class _StreamMetadata(grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = tuple(metadata)

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        return continuation(_CallDetails(client_call_details, client_call_details.timeout, self._metadata), request)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(
            _CallDetails(client_call_details, client_call_details.timeout, self._metadata), request_iterator
        )


class _CallDetails(grpc.ClientCallDetails):
    def __init__(self, given: Any, timeout: float | None, metadata: Sequence[tuple[str, str]]) -> None:
        there = tuple(given.metadata or ())
        names = {name for name, _ in there}
        self.method = given.method
        self.timeout = timeout
        self.metadata = there + tuple((name, value) for name, value in metadata if name not in names)
        self.credentials = given.credentials
        self.wait_for_ready = given.wait_for_ready
        self.compression = given.compression


def open_channel(
    address: str,
    *,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
    metadata: Sequence[tuple[str, str]] | None = None,
) -> grpc.Channel:
    """Open a blocking channel; `metadata` goes with every call, by default who the user is."""
    sent = [("x-lineal-actor", person())] if metadata is None else metadata
    target, options = _target(address)
    channel = grpc.insecure_channel(target, options=options)
    return grpc.intercept_channel(channel, DefaultDeadline(deadline_seconds, sent), _StreamMetadata(sent))


def open_aio_channel(address: str) -> grpc.aio.Channel:
    """Open an asyncio channel; deadlines and metadata are the caller's."""
    target, options = _target(address)
    return grpc.aio.insecure_channel(target, options=options)


def _target(address: str) -> tuple[str, list[tuple[str, Any]]]:
    if "," not in address and not address.startswith("dns:"):
        return address, channel_options()
    target = address if re.match(r"(dns|ipv4|ipv6):", address) else f"ipv4:{address}"
    return target, channel_options(service_config=json.dumps(_CONFIG | _SEVERAL))
