"""The replica's lease in the registry: renewed in time, or the replica stops answering."""

import asyncio
import logging
import time
from collections.abc import Callable

import grpc.aio

from chassis.errors import Unavailable
from lineal.api.registry.v1.endpoint_pb2 import RefusedArms
from lineal.api.registry.v1.registry_service_pb2 import RenewLeaseRequest
from lineal.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub

_logger = logging.getLogger(__name__)
_RENEW_SECONDS = 3.0
_CALL_SECONDS = 2.0


class NoLease(Unavailable):
    """The replica has no lease."""


class LeaseKeeper:
    """Renews the lease at intervals, and at once when arms were swapped."""

    def __init__(self, channel: grpc.aio.Channel, replica_id: str) -> None:
        self._stub = RegistryServiceStub(channel)
        self._replica_id = replica_id
        self._end = 0.0
        self._now = asyncio.Event()
        self.generations: Callable[[], dict[str, int]] = dict
        self.refused: Callable[[], dict[str, RefusedArms]] = dict

    @property
    def valid(self) -> bool:
        """Whether the lease lasts."""
        return time.monotonic() < self._end

    async def renew_soon(self) -> None:
        """Tell the registry what has been applied, without waiting for the next renewal."""
        self._now.set()

    async def check(self) -> None:
        """Raise while there is no lease."""
        if not self.valid:
            raise NoLease("no lease from the registry")

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            self._now.clear()
            await self._renew()
            try:
                async with asyncio.timeout(_RENEW_SECONDS if self.valid else _RENEW_SECONDS / 10):
                    await self._now.wait()
            except TimeoutError:
                continue

    async def leave(self) -> None:
        """Give the lease back; without it the registry would wait until it ends."""
        self._end = 0.0
        try:
            await self._stub.RenewLease(
                RenewLeaseRequest(replica_id=self._replica_id, leaving=True), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            _logger.info("the lease was not given back: %s", error.details())

    async def _renew(self) -> None:
        # Counted from before the call: the registry counts from when it answers, so the lease is never overestimated.
        before = time.monotonic()
        try:
            response = await self._stub.RenewLease(
                RenewLeaseRequest(replica_id=self._replica_id, generations=self.generations(), refused=self.refused()),
                timeout=_CALL_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            _logger.warning("the lease is not renewed: %s", error.details())
            return
        self._end = before + response.lease.ToTimedelta().total_seconds()
