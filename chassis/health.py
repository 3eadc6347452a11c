"""grpc.health.v1 from real checks: a service says SERVING while all its checks pass."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from grpc_health.v1 import health, health_pb2  # type: ignore[import-untyped]

_logger = logging.getLogger(__name__)
INTERVAL_SECONDS = 0.5
# While something is not ready, what waits for the service should not wait for the interval too.
_EAGER_SECONDS = 0.05
_CHECK_SECONDS = 5.0

Check = Callable[[], Awaitable[None]]


class Health:
    """The statuses of all services of a process, which its checks flip together."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self._names = [""]
        self._checks: dict[str, Check] = {}
        self._failing: dict[str, str] | None = None

    def add_service(self, full_name: str) -> None:
        """Report on one more service."""
        self._names.append(full_name)

    def add_check(self, name: str, check: Check) -> None:
        """Ask one more check; it raises while the service is not ready."""
        self._checks[name] = check

    async def begin(self) -> None:
        """Say NOT_SERVING until the first round of checks."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def run(self) -> None:
        """Ask the checks again and again."""
        while True:
            await self.round()
            await asyncio.sleep(_EAGER_SECONDS if self._failing else INTERVAL_SECONDS)

    async def round(self) -> None:
        """Ask all checks once and set the statuses."""
        failing = {}
        for name, check in self._checks.items():
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await check()
            except Exception as error:
                failing[name] = str(error) or type(error).__name__
        if failing == self._failing:
            return
        if failing and set(failing) != set(self._failing or {}):
            _logger.warning("not serving: %s", "; ".join(f"{name}: {why}" for name, why in failing.items()))
        elif not failing:
            _logger.info("serving")
        self._failing = failing
        status = health_pb2.HealthCheckResponse
        await self._set(status.NOT_SERVING if failing else status.SERVING)

    async def drain(self) -> None:
        """Say NOT_SERVING for good."""
        await self.servicer.enter_graceful_shutdown()

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in self._names:
            await self.servicer.set(name, status)
