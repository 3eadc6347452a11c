"""Blocking stubs of all services, with deadlines, patience for restarts, and errors that say what to do."""

import importlib
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from lineal.channel import DEFAULT_DEADLINE_SECONDS, TRANSIENT, open_channel
from lineal.errors import call_failed
from lineal.profile import Profile

_PAUSE_SECONDS = (0.1, 2.0)
_STUBS = {
    name: (f"lineal.api.{name}.v1.{name}_service_pb2_grpc", f"{name.title()}ServiceStub")
    for name in ("lineage", "ingest", "features", "trainer", "registry", "serving", "monitor")
} | {
    "proofs": ("lineal.api.lineage.v1.proof_service_pb2_grpc", "ProofServiceStub"),
    "keeping": ("lineal.api.lineage.v1.keeping_service_pb2_grpc", "KeepingServiceStub"),
    "quarantine": ("lineal.api.ingest.v1.quarantine_service_pb2_grpc", "QuarantineServiceStub"),
    "vault": ("lineal.api.ingest.v1.vault_service_pb2_grpc", "VaultServiceStub"),
    "scoring": ("lineal.api.serving.v1.scoring_service_pb2_grpc", "ScoringServiceStub"),
    "contests": ("lineal.api.monitor.v1.contest_service_pb2_grpc", "ContestServiceStub"),
}
# Services that another one's process offers.
_WITHIN = {
    "proofs": "lineage",
    "keeping": "lineage",
    "quarantine": "ingest",
    "vault": "ingest",
    "scoring": "serving",
    "contests": "monitor",
}


def new_request_id() -> str:
    """Return a new id for a command."""
    return str(uuid.uuid4())


class Service:
    """One service: `service.call("GetModel", request)`."""

    def __init__(self, name: str, address: str, deadline_seconds: float) -> None:
        self.name = name
        self.address = address
        self.deadline_seconds = deadline_seconds
        self.channel = open_channel(address, deadline_seconds=deadline_seconds)
        module, stub = _STUBS[name]
        self.stub = getattr(importlib.import_module(module), stub)(self.channel)

    def call(self, method: str, request: Any, timeout: float | None = None) -> Any:
        """Make a unary call; a service that restarts is waited for until the deadline.

        Every command carries its request id, so sending it again is safe. Raises CallFailed.
        """
        return self.patiently(lambda left: getattr(self.stub, method)(request, timeout=left), timeout)

    def patiently(self, attempt: Callable[[float], Any], timeout: float | None = None) -> Any:
        """Make attempts with the time that is left while the answer may pass. Raises CallFailed."""
        end = time.monotonic() + (self.deadline_seconds if timeout is None else timeout)
        pause, longest = _PAUSE_SECONDS
        heard: grpc.RpcError | None = None
        while True:
            try:
                return attempt(max(end - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                if error.code() in TRANSIENT:
                    heard = error
                if error.code() not in TRANSIENT or time.monotonic() + pause >= end:
                    # What the service said when it was last heard tells more than that time is up.
                    late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                    raise call_failed(heard if heard and late else error, self.name, self.address) from error
            # Without a condition to wait for: the service is up and says that something behind it is not.
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def stream(self, method: str, request: Any, timeout: float) -> Iterator[Any]:
        """Yield the responses of a call that streams them, as they come. Raises CallFailed."""
        try:
            yield from getattr(self.stub, method)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise call_failed(error, self.name, self.address) from error

    def collect(self, method: str, request: Any, timeout: float | None = None) -> list[Any]:
        """Return all responses of a call that streams them; a service that restarts is asked again from the start.

        Raises CallFailed.
        """
        found: list[Any] = self.patiently(lambda left: list(getattr(self.stub, method)(request, timeout=left)), timeout)
        return found


class Services:
    """All services of a profile; channels open on first use."""

    def __init__(self, profile: Profile, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS) -> None:
        self.profile = profile
        self._deadline = deadline_seconds
        self._open: dict[str, Service] = {}

    def __getattr__(self, name: str) -> Service:
        """Return a service by its name."""
        if name not in _STUBS:
            raise AttributeError(name)
        if name not in self._open:
            self._open[name] = Service(name, self.profile.address(_WITHIN.get(name, name)), self._deadline)
        return self._open[name]

    def __enter__(self) -> "Services":
        """Use within a block."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Close all channels."""
        self.close()

    def close(self) -> None:
        """Close all channels."""
        for service in self._open.values():
            service.channel.close()
        self._open.clear()
