"""KeepingService: RPC in, what keeps the log out."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from chassis.artifacts import ArtifactStore
from lineal.api.lineage.v1 import keeping_service_pb2 as api
from lineal.api.lineage.v1.keeping_service_pb2_grpc import KeepingServiceServicer as Base
from services.lineage.checkpoint_files import CheckpointFiles
from services.lineage.store import EventStore
from services.lineage.verification import Verification
from services.lineage.writer import Writer

T = TypeVar("T")


class KeepingServicer(Base):
    """Answers the RPCs of keeping."""

    def __init__(
        self, store: EventStore, writer: Writer, artifacts: ArtifactStore, checkpoints: CheckpointFiles
    ) -> None:
        self._store = store
        self._writer = writer
        self._artifacts = artifacts
        self._checkpoints = checkpoints

    async def VerifyLog(self, _request: api.VerifyLogRequest, _context: Any) -> AsyncIterator[api.VerifyLogResponse]:
        """Read everything that is stored and compare."""
        verification = Verification(self._store, self._artifacts, self._checkpoints, lambda: self._writer.head)
        async for progress in _in_threads(verification.run()):
            response = api.VerifyLogResponse(stage=progress.stage, examined=progress.examined, total=progress.total)
            for finding in progress.findings:
                response.findings.add(layer=finding.layer, message=finding.message)
            yield response


async def _in_threads(steps: Iterator[T]) -> AsyncIterator[T]:
    """Take each step of a blocking iterator in a thread."""
    while (step := await asyncio.to_thread(next, steps, None)) is not None:
        yield step
