"""KeepingService: RPC in, what keeps the log out."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any, TypeVar

from chassis.artifacts import ArtifactStore
from chassis.clock import Clock
from chassis.errors import FieldViolation, InvalidArgument
from chassis.records import to_datetime
from lineal.api.lineage.v1 import keeping_service_pb2 as api
from lineal.api.lineage.v1.keeping_service_pb2_grpc import KeepingServiceServicer as Base
from services.lineage.application import Application
from services.lineage.checkpoint_files import CheckpointFiles
from services.lineage.collection import Collection
from services.lineage.sealing import Sealer
from services.lineage.store import EventStore
from services.lineage.verification import Verification

T = TypeVar("T")
_CHUNK = 1024 * 1024
_COLLECTED_AGE = timedelta(hours=24)
_YOUNGEST_COLLECTED = timedelta(hours=1)


class KeepingServicer(Base):
    """Answers the RPCs of keeping."""

    def __init__(
        self,
        application: Application,
        store: EventStore,
        artifacts: ArtifactStore,
        checkpoints: CheckpointFiles,
        sealer: Sealer,
        clock: Clock,
    ) -> None:
        self._application = application
        self._store = store
        self._artifacts = artifacts
        self._checkpoints = checkpoints
        self._sealer = sealer
        self._clock = clock

    async def SealEvents(self, request: api.SealEventsRequest, _context: Any) -> AsyncIterator[api.SealEventsResponse]:
        """Seal old events."""
        until = request.position
        match request.WhichOneof("until"):
            case "recorded_time":
                until = await self._application.position_at(to_datetime(request.recorded_time))
            case None:
                raise InvalidArgument("nothing is to be sealed", [FieldViolation("until", "give a position or a time")])
        async with aclosing(self._sealer.seal(until)) as ranges:
            async for sealed in ranges:
                found = api.SealedRange(
                    first_position=sealed.first,
                    last_position=sealed.last,
                    digest=sealed.digest,
                    merkle_root=sealed.merkle_root.hex(),
                    record_bytes=sealed.size,
                    file_bytes=await asyncio.to_thread(self._artifacts.verify, sealed.digest),
                )
                yield api.SealEventsResponse(range=found)

    async def ReadArtifact(
        self, request: api.ReadArtifactRequest, _context: Any
    ) -> AsyncIterator[api.ReadArtifactResponse]:
        """Stream an artifact."""
        with await asyncio.to_thread(self._artifacts.open, request.digest) as file:
            while data := await asyncio.to_thread(file.read, _CHUNK):
                yield api.ReadArtifactResponse(data=data)

    async def VerifyLog(self, _request: api.VerifyLogRequest, _context: Any) -> AsyncIterator[api.VerifyLogResponse]:
        """Read everything that is stored and compare."""
        verification = Verification(self._store, self._artifacts, self._checkpoints, self._application.head)
        async for progress in _in_threads(verification.run()):
            response = api.VerifyLogResponse(stage=progress.stage, examined=progress.examined, total=progress.total)
            for finding in progress.findings:
                response.findings.add(layer=finding.layer, message=finding.message)
            yield response

    async def CollectArtifacts(
        self, request: api.CollectArtifactsRequest, _context: Any
    ) -> AsyncIterator[api.CollectArtifactsResponse]:
        """List artifacts that nothing names and leftovers, and delete them when asked to."""
        age = request.older_than.ToTimedelta() if request.HasField("older_than") else _COLLECTED_AGE
        if age < _YOUNGEST_COLLECTED:
            what = FieldViolation(
                "older_than", "must be at least an hour: a step may take that long to name what it stored"
            )
            raise InvalidArgument("artifacts that young may be about to be named", [what])
        before = self._clock.now() - age
        head = self._application.head
        collection = Collection(self._store, self._artifacts, head, before, delete=request.delete)
        async for progress in _in_threads(collection.run()):
            response = api.CollectArtifactsResponse(
                stage=progress.stage, examined=progress.examined, total=progress.total
            )
            for each in progress.unnamed:
                response.unnamed.add(digest=each.digest, bytes=each.size).stored_time.FromDatetime(each.time)
            for left in progress.leftovers:
                response.leftovers.add(name=left.name, bytes=left.size).written_time.FromDatetime(left.time)
            yield response


async def _in_threads(steps: Iterator[T]) -> AsyncIterator[T]:
    """Take each step of a blocking iterator in a thread."""
    while (step := await asyncio.to_thread(next, steps, None)) is not None:
        yield step
