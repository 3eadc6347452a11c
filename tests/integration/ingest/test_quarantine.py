from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pandas as pd
import pyarrow as pa
import pytest

from chassis.ids import new_request_id
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1 import quarantine_service_pb2 as quarantine_api
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from lineal.api.ingest.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from lineal.frames import ipc
from tests.integration.running import Suite
from tests.unit.tabular.declarations import trips

if TYPE_CHECKING:
    from lineal.api.ingest.v1.ingest_service_pb2_grpc import IngestServiceAsyncStub

NOON = pd.Timestamp("2024-05-01T12:00", tz="UTC")
WHY = "looked at"


class World:
    def __init__(self, suite: Suite, quarantine: Any) -> None:
        self.suite = suite
        self.ingest: IngestServiceAsyncStub = suite.stub("ingest")
        self.quarantine = quarantine

    async def send(self, batch_id: str, km: list[Any], trips: list[str]) -> api.IngestBatchesResponse:
        table = pa.table({"trip": trips, "driver": ["d"] * len(km), "km": km, "start": [NOON] * len(km)})
        table = table.append_column("told", table["start"])
        request = api.IngestBatchesRequest(dataset="trips", batch_id=batch_id, arrow=ipc(table))
        (answer,) = [response async for response in self.ingest.IngestBatches(iter([request]))]
        return answer

    async def fix(self, rows: list[int], request_id: str = "", **values: list[Any]) -> quarantine_api.FixRowsResponse:
        request = quarantine_api.FixRowsRequest(
            request_id=request_id or new_request_id(), dataset="trips", batch_id="b", rows=rows, reason=WHY
        )
        request.arrow = ipc(pa.table(values))
        found: quarantine_api.FixRowsResponse = await self.quarantine.FixRows(request)
        return found

    async def release(self, rows: list[int]) -> quarantine_api.ReleaseRowsResponse:
        found: quarantine_api.ReleaseRowsResponse = await self.quarantine.ReleaseRows(
            quarantine_api.ReleaseRowsRequest(
                request_id=new_request_id(), dataset="trips", batch_id="b", rows=rows, reason=WHY
            )
        )
        return found

    async def discard(self, rows: list[int], request_id: str = "") -> quarantine_api.DiscardRowsResponse:
        found: quarantine_api.DiscardRowsResponse = await self.quarantine.DiscardRows(
            quarantine_api.DiscardRowsRequest(
                request_id=request_id or new_request_id(), dataset="trips", batch_id="b", rows=rows, reason=WHY
            )
        )
        return found

    async def open(self, position: int) -> list[int]:
        request = api.ListQuarantinedRowsRequest(dataset="trips", min_position=position)
        return [row.row for row in (await self.ingest.ListQuarantinedRows(request)).rows]

    async def counts(self, position: int) -> tuple[int, int, int]:
        found = await self.ingest.GetDataset(api.GetDatasetRequest(name="trips", min_position=position))
        return found.accepted_rows, found.quarantined_rows, found.discarded_rows


@pytest.fixture
async def world(suite: Suite) -> World:
    await suite.start("lineage", "ingest")
    channel = grpc.aio.insecure_channel(suite.address("ingest"))
    suite._stack.push_async_callback(channel.close)
    world = World(suite, QuarantineServiceStub(channel))
    await world.ingest.RegisterDataset(api.RegisterDatasetRequest(request_id=new_request_id(), dataset=trips()))
    return world


async def test_each_quarantined_row_is_settled_once_and_counted_once(world: World) -> None:
    sent = await world.send("b", ["1", "-1", "-2", "far", "-4", "6"], ["a", "b", "c", "d", "e", "a"])
    assert (sent.accepted_rows, sent.quarantined_rows) == (1, 5)
    assert await world.counts(sent.position) == (1, 5, 0)

    request_id = new_request_id()
    fixed = await world.fix([3, 1], request_id, km=[3.0, 1.5])
    assert fixed.accepted_rows == 2
    assert await world.fix([3, 1], request_id, km=[3.0, 1.5]) == fixed
    assert await world.open(fixed.position) == [2, 4, 5]
    released = await world.release([2])
    discarding = new_request_id()
    gone = await world.discard([], discarding)
    assert gone.discarded_rows == 2
    assert await world.discard([], discarding) == gone

    assert await world.open(gone.position) == []
    assert await world.counts(gone.position) == (4, 0, 2)
    with pytest.raises(grpc.aio.AioRpcError, match="settled already"):
        await world.release([1])
    log = world.suite.servers["ingest"].harness.log
    events = await log.read_stream("quarantine/trips")
    assert [e.type.rpartition(".")[2] for e in events] == [
        "QuarantinedRowsFixed",
        "BatchAccepted",
        "QuarantinedRowsReleased",
        "BatchAccepted",
        "QuarantinedRowsDiscarded",
    ]
    batch = events[1].message
    assert isinstance(batch, BatchAccepted)
    assert (batch.batch_id, batch.quarantine_batch_id) == (fixed.accepted_batch_id, "b")
    assert (list(batch.quarantine_rows), events[3].position) == ([3, 1], released.position)
    snapshot = await world.ingest.CreateSnapshot(
        api.CreateSnapshotRequest(request_id=new_request_id(), dataset="trips")
    )
    pieces = world.ingest.ReadSnapshot(api.ReadSnapshotRequest(digest=snapshot.snapshot.digest))
    table = pa.ipc.open_stream(b"".join([piece.arrow async for piece in pieces])).read_all()
    assert dict(zip(table["trip"].to_pylist(), table["km"].to_pylist(), strict=True)) == {
        "a": 1.0,
        "d": 3.0,
        "b": 1.5,
        "c": -2.0,
    }
    for runner in world.suite.servers["ingest"].harness._runners:
        verified = await runner.verify()
        assert verified.live_digest == verified.rebuilt_digest


async def test_what_would_break_the_data_is_refused_and_stays(world: World) -> None:
    await world.send("b", ["1", "-1", "far", "4"], ["a", "b", "c", "a"])
    for attempt, why in (
        (world.fix([1], km=[-3.0]), "still refused"),
        (world.fix([3], driver=["x"]), "count twice"),
        (world.fix([1], kn=[3.0]), "do not fit"),
        (world.fix([0], km=[3.0]), "not in quarantine"),
        (world.release([2]), "did not read"),
        (world.release([3]), "row key"),
        (world.fix([1, 1], km=[3.0, 3.0]), "twice"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=why):
            await attempt
    assert await world.open(0) == [1, 2, 3]
    with pytest.raises(grpc.aio.AioRpcError, match="come out of quarantine"):
        await world.send("quarantine:mine", [1.0], ["z"])
