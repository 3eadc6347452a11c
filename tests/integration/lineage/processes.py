"""Lineage as processes of their own, and clients that remember what they were told."""

import asyncio
import os
import socket
import sys
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from chassis.databases import open_database
from lineal import merkle
from lineal.api.lineage.v1 import proof_service_pb2 as proofs
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, SubscribeRequest
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.proof_service_pb2_grpc import ProofServiceStub
from lineal.api.lineage.v1.record_pb2 import EventRecord, StoredRecord
from lineal.notes import Checkpoint

ATTEMPT_SECONDS = 2.0
# What says nothing about whether the events are there. CANCELLED: the process ended before it could answer.
_UNKNOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def lineage(
    folder: Path, port: int, url: str | None = None, module: str = "services.lineage", **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run lineage within the block; what it writes to stderr is in `<folder>/<port>.log`."""
    own = {
        "LINEAL_LINEAGE_PORT": str(port),
        "LINEAL_DATA_DIR": str(folder),
        "LINEAL_LINEAGE_WRITER_TIMEOUT_SECONDS": "4",
    }
    variables = os.environ | own | environment
    if url:
        variables["LINEAL_LINEAGE_DATABASE_URL"] = url
    with (folder / f"{port}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, env=variables, stderr=log)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@dataclass
class History:
    """What clients sent and what they were told: an append is acknowledged, or it may or may not be there."""

    sent: set[str] = field(default_factory=set)
    acknowledged: dict[str, int] = field(default_factory=dict)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def append(self, stub: Any, stream: str, count: int) -> bool:
        """Send an append until its deadline; tell whether it was acknowledged."""
        request = AppendEventsRequest(request_id=str(uuid.uuid4()), stream=stream)
        for _ in range(count):
            request.events.add(event_id=str(uuid.uuid4()), type="t.A", payload=b"x" * 100)
        self.sent.update(event.event_id for event in request.events)
        try:
            response = await stub.AppendEvents(request, timeout=ATTEMPT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _UNKNOWN:
                raise
            return False
        self.acknowledged.update((event.event_id, event.position) for event in response.events)
        self.told.set()
        return True

    async def write(self, stub: Any, writer: int) -> None:
        """Append one after the other, without end, every third to a stream that all share."""
        n = 0
        while True:
            n += 1
            await self.append(stub, "shared" if n % 3 == 0 else f"writer/{writer}", 1 + n % 3)

    async def next_told(self) -> None:
        """Return when one more append has been acknowledged."""
        self.told.clear()
        await self.told.wait()

    async def check(self, channel: grpc.aio.Channel) -> int:
        """Compare with the log, which grows no more: return its length."""
        records: list[EventRecord] = []
        tree = merkle.Growing()
        async with aclosing(_read(channel)) as stored:
            async for each in stored:
                records.append(EventRecord.FromString(each.record))
                assert merkle.leaf_hash(each.record) == each.leaf_hash
                tree.add(each.leaf_hash)
        ids = Counter(record.event_id for record in records)
        assert set(ids.values()) <= {1}
        there = {record.event_id: record.position for record in records}
        assert {key: there.get(key) for key in self.acknowledged} == self.acknowledged
        assert there.keys() <= self.sent
        assert [record.position for record in records] == list(range(1, len(records) + 1))
        revisions: dict[str, int] = {}
        for record in records:
            assert record.revision == revisions.get(record.stream, 0) + 1
            revisions[record.stream] = record.revision
        stub: Any = ProofServiceStub(channel)
        found = await stub.GetCheckpoint(proofs.GetCheckpointRequest())
        checkpoint = Checkpoint.parse(found.checkpoint.split("\n\n")[0] + "\n")
        assert (checkpoint.size, checkpoint.root) == (len(records), tree.root())
        return len(records)


async def _read(channel: grpc.aio.Channel) -> AsyncGenerator[StoredRecord, None]:
    stub: Any = LineageServiceStub(channel)
    stream = stub.Subscribe(SubscribeRequest())
    async for response in stream:
        for stored in response.records:
            yield stored
        if response.live:
            break
    stream.cancel()


def writer_epoch(url: str) -> int:
    """Return the epoch of who writes, from the database."""
    database = open_database(url)
    try:
        with database.reader.begin() as connection:
            return int(connection.exec_driver_sql("SELECT epoch FROM log_writer").scalar_one())
    finally:
        database.close()
