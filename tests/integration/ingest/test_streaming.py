"""A stream of batches holds its sender back: ingest takes no more than it can store; what it acknowledges is stored."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from chassis.ids import new_request_id
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from services.ingest import acceptance
from tests.integration.running import Suite
from tests.unit.tabular.declarations import trips

if TYPE_CHECKING:
    from lineal.api.ingest.v1.ingest_service_pb2_grpc import IngestServiceAsyncStub

BATCHES = 48
ROWS = 8
TEXT = 128 * 1024
# gRPC lets a sender go on until so many bytes that nobody has read are on their way; the rest is Lineal's.
ON_THE_WAY = 16 * 1024 * 1024


class Sender:
    """Sends batches as fast as it may, and counts those that it was let to."""

    def __init__(self) -> None:
        self.sent = 0
        self._random = random.Random(1)

    async def requests(self) -> AsyncIterator[api.IngestBatchesRequest]:
        for n in range(BATCHES):
            self.sent += 1
            yield api.IngestBatchesRequest(dataset="trips", batch_id=f"b{n:02d}", arrow=self._batch(n))

    def _batch(self, n: int) -> bytes:
        when = pa.array([datetime(2024, 5, 1, 12, n, tzinfo=UTC)] * ROWS, pa.timestamp("us", tz="UTC"))
        table = pa.table(
            {
                "trip": [f"t{n}-{row}" for row in range(ROWS)],
                # Letters by lot, so that Parquet does not make them small.
                "driver": [self._random.randbytes(TEXT // 2).hex() for _ in range(ROWS)],
                "km": [1.0] * ROWS,
                "start": when,
                "told": when,
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
        return data


class HeldLog:
    """Lets no event into the log until it is opened."""

    def __init__(self, append: Any) -> None:
        self._append = append
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()

    async def append(self, *given: Any, **named: Any) -> Any:
        self.reached.set()
        await self.opened.wait()
        return await self._append(*given, **named)


@pytest.fixture
async def ingest(suite: Suite) -> "IngestServiceAsyncStub":
    await suite.start("lineage", "ingest")
    stub: IngestServiceAsyncStub = suite.stub("ingest")
    await stub.RegisterDataset(api.RegisterDatasetRequest(request_id=new_request_id(), dataset=trips()))
    return stub


def stored(suite: Suite) -> int:
    return sum(1 for _ in suite.artifacts.listed())


async def accepted(ingest: "IngestServiceAsyncStub", position: int) -> int:
    return (await ingest.GetDataset(api.GetDatasetRequest(name="trips", min_position=position))).accepted_rows


async def test_a_sender_is_held_back_while_nothing_can_be_stored(
    suite: Suite, ingest: "IngestServiceAsyncStub", monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored(suite)
    log = suite.servers["ingest"].harness.log
    held = HeldLog(log.append)
    monkeypatch.setattr(log, "append", held.append)
    sender = Sender()
    call = ingest.IngestBatches(sender.requests())
    await held.reached.wait()
    # Turns of the same event loop and channel in which a sender that nobody holds back would have sent everything.
    for _ in range(200):
        await accepted(ingest, 0)
    batch_bytes = ROWS * TEXT
    assert sender.sent < BATCHES
    assert sender.sent * batch_bytes < ON_THE_WAY + (acceptance._AHEAD + 3) * batch_bytes
    # Examined ahead, no more; and nothing is acknowledged that the log does not have.
    assert stored(suite) - before <= acceptance._AHEAD
    assert await accepted(ingest, 0) == 0

    held.opened.set()
    answers = []
    async for answer in call:
        answers.append(answer)
        assert sender.sent - len(answers) < BATCHES / 2
    assert [answer.batch_id for answer in answers] == [f"b{n:02d}" for n in range(BATCHES)]
    assert await accepted(ingest, answers[-1].position) == BATCHES * ROWS


async def test_what_is_acknowledged_is_stored_when_the_sender_goes_away(
    suite: Suite, ingest: "IngestServiceAsyncStub"
) -> None:
    call = ingest.IngestBatches(Sender().requests())
    answers: list[api.IngestBatchesResponse] = []
    async for answer in call:
        answers.append(answer)
        if len(answers) == 5:
            call.cancel()
            break
    assert await accepted(ingest, answers[-1].position) >= 5 * ROWS
    listed = (await ingest.ListBatches(api.ListBatchesRequest(dataset="trips"))).batches
    assert {answer.batch_id for answer in answers} <= {batch.batch_id for batch in listed}
    for batch in listed:
        suite.artifacts.verify(batch.accepted_digest)
