"""Leases of serving's replicas: kept in memory between the events that tell of joining, applying and leaving."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from chassis.aggregate import Repository
from chassis.clock import Clock
from chassis.context import time_left
from chassis.errors import FieldViolation, InvalidArgument, RuleViolated, Unavailable
from chassis.events import EventLog
from chassis.ids import new_request_id
from chassis.projection import ProjectionRunner
from lineal.api.registry.v1.endpoint_pb2 import RefusedArms, Replica
from services.registry import projections, replica

_SWEEP_SECONDS = 1.0


class ReplicaIdMissing(InvalidArgument):
    """A lease is for somebody."""


class ArmsRefused(RuleViolated):
    """A replica cannot load the bundles of a generation."""


class ReplicasBehind(Unavailable):
    """Replicas have not applied a generation within the deadline."""


@dataclass
class _Lease:
    end: datetime
    generations: Mapping[str, int]
    refused: Mapping[str, RefusedArms] = field(default_factory=dict)


class Leases:
    """Which replicas live, and what each has applied."""

    def __init__(self, log: EventLog, tables: ProjectionRunner, clock: Clock) -> None:
        self._replicas = Repository(log, "replica", replica.decider)
        self._tables = tables
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._changed = asyncio.Condition()

    async def renew(
        self, replica_id: str, generations: Mapping[str, int], refused: Mapping[str, RefusedArms], *, leaving: bool
    ) -> datetime:
        """Take, renew or give back a lease; return when it ends. Raises ReplicaIdMissing."""
        if not replica_id:
            raise ReplicaIdMissing(
                "replica_id is empty", [FieldViolation("replica_id", "an id that the instance keeps while it lives")]
            )
        now = self._clock.now()
        known = self._leases.get(replica_id)
        if leaving:
            await self._end(replica_id, expired=False)
            return now
        if known is None or dict(known.generations) != dict(generations):
            await self._replicas.execute(
                replica_id,
                request_id=new_request_id(),
                decide=lambda state: replica.renew(state, replica_id=replica_id, generations=generations),
            )
        self._leases[replica_id] = _Lease(now + replica.LEASE, dict(generations), dict(refused))
        async with self._changed:
            self._changed.notify_all()
        return now + replica.LEASE

    def live(self) -> list[Replica]:
        """Return the replicas whose lease has not ended."""
        now = self._clock.now()
        found = []
        for replica_id, lease in sorted(self._leases.items()):
            if lease.end > now:
                entry = Replica(replica_id=replica_id, generations=lease.generations, refused=lease.refused)
                entry.lease_end_time.FromDatetime(lease.end)
                found.append(entry)
        return found

    async def wait_for(self, endpoint: str, generation: int) -> list[str]:
        """Return the replicas once all that live have applied a generation, and one at least lives.

        Raises ArmsRefused as soon as one cannot load it, ReplicasBehind when the call's deadline comes first.
        """
        try:
            async with asyncio.timeout(time_left()), self._changed:
                await self._changed.wait_for(
                    lambda: self._refusals(endpoint, generation) or self._applied(endpoint, generation)
                )
        except TimeoutError:
            behind = [entry.replica_id for entry in self.live() if entry.generations[endpoint] < generation]
            raise ReplicasBehind(
                f"generation {generation} of {endpoint!r} is not everywhere yet: "
                + (f"{', '.join(behind)} lag behind" if behind else "no replica of serving lives")
            ) from None
        if refusals := self._refusals(endpoint, generation):
            raise ArmsRefused(f"generation {generation} of {endpoint!r} is refused: {'; '.join(refusals)}")
        return [entry.replica_id for entry in self.live()]

    async def run(self) -> None:
        """Take over the replicas that the log knows, then end leases that are not renewed, for ever."""
        await self._load()
        while True:
            now = self._clock.now()
            for replica_id in [key for key, lease in self._leases.items() if lease.end <= now]:
                await self._end(replica_id, expired=True)
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _load(self) -> None:
        # After a restart of the registry nobody's lease has been missed yet: each gets a fresh one.
        end = self._clock.now() + replica.LEASE
        for replica_id, generations in (await self._tables.query(projections.replicas)).items():
            self._leases.setdefault(replica_id, _Lease(end, generations))

    async def _end(self, replica_id: str, *, expired: bool) -> None:
        await self._replicas.execute(
            replica_id,
            request_id=new_request_id(),
            decide=lambda state: replica.leave(state, replica_id=replica_id, expired=expired),
        )
        self._leases.pop(replica_id, None)
        async with self._changed:
            self._changed.notify_all()

    def _refusals(self, endpoint: str, generation: int) -> list[str]:
        return [
            f"{entry.replica_id}: {entry.refused[endpoint].reason}"
            for entry in self.live()
            if endpoint in entry.refused and entry.refused[endpoint].generation == generation
        ]

    def _applied(self, endpoint: str, generation: int) -> bool:
        live = self.live()
        return bool(live) and all(entry.generations[endpoint] >= generation for entry in live)
