from typing import Any

import grpc
import grpc.aio
import pyarrow as pa
import pytest
from google.protobuf.text_format import Parse

from chassis.ids import new_request_id
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1 import quarantine_service_pb2 as quarantine_api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from lineal.frames import ipc
from tests.integration.running import Suite

PLANES = """
name: "planes" row_key: "tail"
fields { name: "tail" type: FIELD_TYPE_STRING }
"""
LEGS = """
name: "legs" row_key: "leg"
fields { name: "leg" type: FIELD_TYPE_INT64 }
fields { name: "tail" type: FIELD_TYPE_STRING nullable: true }
rules { name: "known-plane" reference { column: "tail" dataset: "planes" other_column: "tail" } }
rules { name: "has-plane" severity: SEVERITY_WARN compare { column: "tail" operator: OPERATOR_IS_PRESENT } }
distribution_checks { name: "fleet" column: "tail" minimum_rows: 4 population_shift: 0.5 }
"""


async def register(stub: Any, text: str) -> None:
    dataset = Parse(text, Dataset())
    await stub.RegisterDataset(api.RegisterDatasetRequest(request_id=new_request_id(), dataset=dataset))


async def send(stub: Any, dataset: str, batch_id: str, **columns: list[Any]) -> api.IngestBatchesResponse:
    request = api.IngestBatchesRequest(dataset=dataset, batch_id=batch_id, arrow=ipc(pa.table(columns)))
    answer: api.IngestBatchesResponse
    (answer,) = [response async for response in stub.IngestBatches(iter([request]))]
    return answer


async def test_rules_look_at_other_datasets_and_at_the_newest_snapshot(suite: Suite) -> None:
    await suite.start("lineage", "ingest")
    stub = suite.stub("ingest")
    with pytest.raises(grpc.aio.AioRpcError, match="not valid"):
        await register(stub, LEGS)
    await register(stub, PLANES)
    await register(stub, LEGS)
    await send(stub, "planes", "p1", tail=["a"])
    first = await send(stub, "legs", "l1", leg=[1, 2, 3, 4], tail=["a", "b", None, "a"])
    assert (first.accepted_rows, first.quarantined_rows, first.warned_rows) == (3, 1, 1)
    assert [reason.message for reason in first.reasons] == ["known-plane: tail must be in planes.tail"]
    again = await send(stub, "legs", "l1", leg=[1, 2, 3, 4], tail=["a", "b", None, "a"])
    assert (again.warned_rows, list(again.findings)) == (1, list(first.findings))
    # Known as soon as the other dataset has it.
    await send(stub, "planes", "p2", tail=["b"])
    assert (await send(stub, "legs", "l2", leg=[5], tail=["b"])).accepted_rows == 1

    await stub.CreateSnapshot(api.CreateSnapshotRequest(request_id=new_request_id(), dataset="legs"))
    shifted = await send(stub, "legs", "l3", leg=[6, 7, 8, 9], tail=["b"] * 4)
    assert (shifted.accepted_rows, shifted.quarantined_rows, shifted.findings[0].rule) == (0, 4, "fleet")
    async with grpc.aio.insecure_channel(suite.address("ingest")) as channel:
        request = quarantine_api.ReleaseRowsRequest(
            request_id=new_request_id(), dataset="legs", batch_id="l3", reason="the other planes are in repair"
        )
        released = await QuarantineServiceStub(channel).ReleaseRows(request)
    assert released.accepted_rows == 4
