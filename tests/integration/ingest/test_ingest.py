import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pyarrow as pa
import pytest
from google.rpc.error_details_pb2 import BadRequest  # type: ignore[import-untyped]
from grpc_status.rpc_status import from_call  # type: ignore[import-untyped]

from chassis.ids import new_request_id
from lineal import merkle
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, DatasetRegistered
from lineal.rows import decode
from tests.integration.running import Suite
from tests.unit.tabular.declarations import trips

if TYPE_CHECKING:
    from lineal.api.ingest.v1.ingest_service_pb2_grpc import IngestServiceAsyncStub

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
async def ingest(suite: Suite, request: pytest.FixtureRequest) -> "IngestServiceAsyncStub":
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    await suite.start("lineage", "ingest", database_url=url)
    stub: IngestServiceAsyncStub = suite.stub("ingest")
    return stub


def rows(first: int = 0, count: int = 3, km: float = 1.0) -> bytes:
    start = [NOON + timedelta(minutes=n) for n in range(first, first + count)]
    table = pa.table(
        {
            "trip": [f"t{n}" for n in range(first, first + count)],
            "driver": ["d"] * count,
            "km": [km] * count,
            "start": pa.array(start, type=pa.timestamp("us", tz="UTC")),
            "told": pa.array(start, type=pa.timestamp("us", tz="UTC")),
        }
    )
    return ipc(table)


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


async def register(ingest: "IngestServiceAsyncStub", dataset: Dataset | None = None) -> api.RegisterDatasetResponse:
    request = api.RegisterDatasetRequest(request_id=new_request_id(), dataset=dataset or trips())
    return await ingest.RegisterDataset(request)


async def send(ingest: "IngestServiceAsyncStub", *batches: tuple[str, bytes]) -> list[api.IngestBatchesResponse]:
    requests = [api.IngestBatchesRequest(dataset="trips", batch_id=name, arrow=data) for name, data in batches]
    return [response async for response in ingest.IngestBatches(iter(requests))]


async def snapshot(ingest: "IngestServiceAsyncStub", position: int = 0) -> api.CreateSnapshotResponse:
    request = api.CreateSnapshotRequest(request_id=new_request_id(), dataset="trips", as_of_position=position)
    return await ingest.CreateSnapshot(request)


async def read(ingest: "IngestServiceAsyncStub", digest: str) -> pa.Table:
    pieces = [piece.arrow async for piece in ingest.ReadSnapshot(api.ReadSnapshotRequest(digest=digest))]
    assert max(map(len, pieces)) <= 1024 * 1024
    return pa.ipc.open_stream(b"".join(pieces)).read_all()


async def test_rows_come_back_as_a_snapshot(ingest: "IngestServiceAsyncStub") -> None:
    assert (await register(ingest)).schema_version == 1
    answers = await send(ingest, ("one", rows(0)), ("two", rows(3)))
    assert [a.accepted_rows for a in answers] == [3, 3]
    taken = (await snapshot(ingest)).snapshot
    assert (taken.rows, taken.batches, taken.as_of_position) == (6, 2, answers[1].position)
    assert (await read(ingest, taken.digest))["trip"].to_pylist() == [f"t{n}" for n in range(6)]
    assert json.loads(taken.profile_json)["columns"]["trip"]["distinct"] == 6
    found = await ingest.GetDataset(api.GetDatasetRequest(name="trips", min_position=answers[1].position))
    assert (found.accepted_rows, found.quarantined_rows, found.position) == (6, 0, answers[1].position)


async def test_a_batch_sent_again_is_answered_as_before(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    first, again = await send(ingest, ("one", rows()), ("one", rows()))
    assert again.repeated_request
    assert (again.position, again.accepted_rows) == (first.position, 3)
    assert (await snapshot(ingest)).snapshot.rows == 3


async def test_a_batch_id_with_other_content_is_refused(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(ingest, ("one", rows()), ("one", rows(5)))
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert "new batch id" in (caught.value.details() or "")
    assert (await snapshot(ingest)).snapshot.rows == 3


async def test_wrong_columns_are_named_and_nothing_is_lost(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    wrong = pa.ipc.open_stream(rows()).read_all().rename_columns(["trip", "drivr", "km", "start", "told"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(ingest, ("one", rows()), ("two", ipc(wrong)))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = from_call(caught.value)
    details = BadRequest()
    assert any(detail.Unpack(details) for detail in status.details)
    assert {v.field for v in details.field_violations} == {"arrow.drivr", "arrow.driver"}
    assert (await snapshot(ingest)).snapshot.rows == 3


async def test_batches_after_a_refused_one_are_not_taken(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    good = [(f"b{n}", rows(3 * n)) for n in range(12)]
    with pytest.raises(grpc.aio.AioRpcError):
        await send(ingest, *good[:2], ("bad", b"nonsense"), *good[2:])
    assert (await snapshot(ingest)).snapshot.rows == 6
    answers = await send(ingest, *good)
    assert [a.repeated_request for a in answers] == [True, True, *[False] * 10]
    assert [a.position for a in answers] == sorted(a.position for a in answers)


async def test_bytes_that_are_no_arrow_are_refused(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(ingest, ("one", b"nonsense"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_bad_rows_are_quarantined_with_reasons(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    one, two = await send(ingest, ("one", rows(0, 2, km=-1.0)), ("two", rows(2, 3, km=-2.0)))
    assert (one.accepted_rows, two.quarantined_rows) == (0, 3)
    assert [(r.field, r.message, r.rows) for r in two.reasons] == [("km", "must be at least 0", 3)]
    await ingest.GetDataset(api.GetDatasetRequest(name="trips", min_position=two.position))
    seen, token = [], ""
    while True:
        request = api.ListQuarantinedRowsRequest(dataset="trips", page_size=2, page_token=token)
        page = await ingest.ListQuarantinedRows(request)
        seen += [(row.batch_id, row.row) for row in page.rows]
        token = page.next_page_token
        if not token:
            break
    assert seen == [("two", 0), ("two", 1), ("two", 2), ("one", 0), ("one", 1)]
    assert json.loads(page.rows[0].row_json)["km"] == -1.0
    assert (await snapshot(ingest)).snapshot.rows == 0


async def test_the_same_position_gives_the_same_snapshot(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    (one,) = await send(ingest, ("one", rows()))
    first = (await snapshot(ingest, one.position)).snapshot
    await send(ingest, ("two", rows(9)))
    assert (await snapshot(ingest, one.position)).snapshot.digest == first.digest
    later = await snapshot(ingest)
    assert later.snapshot.digest != first.digest
    found = (await ingest.GetSnapshot(api.GetSnapshotRequest(digest=later.snapshot.digest))).snapshot
    assert found == later.snapshot
    listed = (await ingest.ListSnapshots(api.ListSnapshotsRequest(dataset="trips"))).snapshots
    assert [s.digest for s in listed] == [later.snapshot.digest, first.digest]


async def test_a_snapshot_beyond_the_log_is_refused(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await snapshot(ingest, 10**6)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_wider_schema_reads_older_rows_with_nulls(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    await send(ingest, ("one", rows()))
    wider = trips()
    wider.fields.add(name="more", type=1, nullable=True)
    answer = await register(ingest, wider)
    assert answer.schema_version == 2
    request = api.ListDatasetVersionsRequest(name="trips", min_position=answer.position)
    versions = (await ingest.ListDatasetVersions(request)).versions
    assert [(v.schema_version, len(v.dataset.fields)) for v in versions] == [(2, 6), (1, 5)]
    table = await read(ingest, (await snapshot(ingest)).snapshot.digest)
    assert table["more"].null_count == 3


async def test_rows_are_found_by_key_in_the_newest_batches_first(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    await send(ingest, ("b1", rows()), ("b2", rows(3)))
    position = (await send(ingest, ("b3", rows(6))))[0].position

    async def find(**key: str) -> list[tuple[str, int, str]]:
        request = api.FindRowsRequest(dataset="trips", key=key, page_size=4, until_position=position)
        found = (await ingest.FindRows(request)).rows
        return [(row.batch_id, row.row, json.loads(row.row_json)["trip"]) for row in found]

    assert await find(driver="d") == [("b3", 2, "t8"), ("b3", 1, "t7"), ("b3", 0, "t6"), ("b2", 2, "t5")]
    # In an old batch only: the others have none.
    assert await find(trip="t1") == [("b1", 1, "t1")]
    assert await find(trip="t99") == []


async def test_rows_are_proven_to_the_root_in_the_event_and_in_the_manifest(
    ingest: "IngestServiceAsyncStub", suite: Suite
) -> None:
    await register(ingest)
    position = (await send(ingest, ("b1", rows(0, 13)), ("b2", rows(20))))[0].position
    request = api.ProveRowsRequest(dataset="trips", batch_id="b1", rows=[12, 0, 5])
    found = await ingest.ProveRows(request)
    assert (found.position, [row.row for row in found.rows]) == (position, [12, 0, 5])
    log = suite.servers["ingest"].harness.log
    events = {
        event.position: event.message
        for name in ("dataset", "batches")
        for event in await log.read_stream(f"{name}/trips")
    }
    batch, declared = events[position], events[found.declaration_position]
    assert isinstance(batch, BatchAccepted)
    assert isinstance(declared, DatasetRegistered)
    root = bytes.fromhex(batch.rows_root)
    for row in found.rows:
        merkle.check_inclusion(merkle.leaf_hash(row.data), row.row, batch.accepted_rows, list(row.path), root)
        assert decode(declared.dataset, row.data)["trip"] == f"t{row.row}"
    manifest = json.loads(suite.artifacts.read((await snapshot(ingest)).snapshot.digest))
    assert manifest["files"][0]["rows_root"] == batch.rows_root


@pytest.mark.parametrize(
    ("batch", "asked", "code"),
    [
        ("b1", [3], grpc.StatusCode.NOT_FOUND),
        ("b2", [0], grpc.StatusCode.NOT_FOUND),
        ("b1", [], grpc.StatusCode.INVALID_ARGUMENT),
        ("b1", [0] * 1001, grpc.StatusCode.INVALID_ARGUMENT),
        ("old", [0], grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_rows_that_cannot_be_proven_are_refused(
    ingest: "IngestServiceAsyncStub", suite: Suite, batch: str, asked: list[int], code: grpc.StatusCode
) -> None:
    await register(ingest)
    await send(ingest, ("b1", rows()))
    # As a version wrote it that did not hash rows.
    old = BatchAccepted(dataset="trips", batch_id="old", schema_version=1, accepted_rows=1, accepted_digest="0" * 64)
    log = suite.servers["ingest"].harness.log
    await log.append("batches/trips", [old], request_id=new_request_id(), expected_revision=None)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ingest.ProveRows(api.ProveRowsRequest(dataset="trips", batch_id=batch, rows=asked))
    assert caught.value.code() == code


async def test_lists_come_in_pages(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    answers = await send(ingest, *((f"b{n}", rows(3 * n)) for n in range(3)))
    await ingest.GetDataset(api.GetDatasetRequest(name="trips", min_position=answers[-1].position))
    page = await ingest.ListBatches(api.ListBatchesRequest(dataset="trips", page_size=2))
    assert [b.batch_id for b in page.batches] == ["b2", "b1"]
    request = api.ListBatchesRequest(dataset="trips", page_size=2, page_token=page.next_page_token)
    rest = await ingest.ListBatches(request)
    assert ([b.batch_id for b in rest.batches], rest.next_page_token) == (["b0"], "")
    assert [d.dataset.name for d in (await ingest.ListDatasets(api.ListDatasetsRequest())).datasets] == ["trips"]


async def test_an_unknown_dataset_is_not_found(ingest: "IngestServiceAsyncStub") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(ingest, ("one", rows()))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_rebuilt_tables_are_identical(suite: Suite, ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    await send(ingest, ("one", rows()), ("two", rows(0, 2, km=-1.0)))
    await ingest.GetDataset(api.GetDatasetRequest(name="trips", min_position=(await snapshot(ingest)).position))
    for runner in suite.servers["ingest"].harness._runners:
        verified = await runner.verify()
        assert verified.live_digest == verified.rebuilt_digest


async def test_a_profile_tells_what_came_again(ingest: "IngestServiceAsyncStub") -> None:
    await register(ingest)
    await send(ingest, ("one", rows(0)), ("two", rows(2)), ("three", rows(4, km=2.0)), ("four", rows(5, km=2.0)))
    profile = json.loads((await snapshot(ingest)).snapshot.profile_json)
    assert (profile["rows"], profile["repeated_rows"], profile["corrected_rows"]) == (12, 1 + 2, 1)
