"""The log from the command line: CloudEvents, OpenLineage, lineage both ways, and events of types that nobody knows."""

import asyncio
import base64
import json
import sys
from contextlib import aclosing
from typing import Any

import grpc.aio
import pytest

from chassis.channels import open_service_channel
from chassis.events import Event
from chassis.ids import new_request_id
from chassis.log import LineageLog
from chassis.telemetry import Telemetry
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, SnapshotCreated
from lineal.api.lineage.v1 import lineage_service_pb2 as api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from tests.integration.running import Suite

UNKNOWN = "lineal.api.future.v1.ThingHappened"
PAYLOAD = b"\x0a\x03abc\xff"


async def lineal(suite: Suite, *arguments: str) -> str:
    command = [sys.executable, "-m", "lineal.cli", "--connect", str(suite.profile), *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def lines(suite: Suite, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await lineal(suite, *arguments)).splitlines()]


async def append_unknown(suite: Suite, stream: str) -> int:
    request = api.AppendEventsRequest(request_id=new_request_id(), stream=stream, actor="service:tomorrow")
    request.events.add(event_id=new_request_id(), type=UNKNOWN, payload=PAYLOAD)
    return int((await suite.stub("lineage").AppendEvents(request)).position)


async def told(suite: Suite) -> None:
    await suite.start("lineage")
    story = [
        BatchAccepted(dataset="flights", batch_id="1", accepted_rows=10),
        SnapshotCreated(dataset="flights", snapshot_digest="5" * 64, as_of_position=1, rows=10),
    ]
    log = suite.servers["lineage"].harness.log
    await log.append("dataset/flights", story, request_id=new_request_id(), expected_revision=None)


async def test_the_log_reads_as_cloudevents(suite: Suite) -> None:
    await told(suite)
    await append_unknown(suite, "thing/1")
    batch, snapshot, unknown = await lines(suite, "events", "--format", "cloudevents", "--limit", "0")
    for event in (batch, snapshot, unknown):
        assert event["specversion"] == "1.0"
        assert {"id", "source", "type", "time", "sequence"} <= set(event)
        assert all(name.isalnum() and name.islower() and len(name) <= 20 for name in set(event) - {"data_base64"})
    assert (batch["type"], batch["subject"], batch["source"]) == (
        "lineal.api.ingest.v1.BatchAccepted",
        "dataset/flights",
        "/lineal/dataset",
    )
    assert batch["data"] == {"dataset": "flights", "batch_id": "1", "accepted_rows": "10"}
    assert [event["sequence"] for event in (batch, snapshot, unknown)] == [f"{n:020}" for n in (1, 2, 3)]
    assert (unknown["datacontenttype"], unknown["authtype"]) == ("application/protobuf", "service_account")
    assert base64.b64decode(unknown["data_base64"]) == PAYLOAD


async def test_the_log_reads_as_openlineage(suite: Suite) -> None:
    await told(suite)
    await append_unknown(suite, "thing/1")
    found = await lines(suite, "events", "--format", "openlineage")
    assert [(event["job"]["name"], event["eventType"]) for event in found] == [
        ("ingest/flights", "START"),
        ("ingest/flights", "COMPLETE"),
        ("snapshot/flights", "START"),
        ("snapshot/flights", "COMPLETE"),
    ]
    assert await lines(suite, "events", "--format", "openlineage", "--after", "1") == found[2:]


async def test_lineage_is_followed_both_ways(suite: Suite) -> None:
    await told(suite)
    down = json.loads(await lineal(suite, "--json", "lineage", "flights/1", "--down"))
    assert down["counts"] == {"snapshot": 1}
    assert down["edges"][0]["target"]["name"] == "5" * 64
    up = json.loads(await lineal(suite, "--json", "lineage", "55555555"))
    assert (up["counts"], up["edges"]) == ({"batch": 1}, down["edges"])
    assert "snapshot 555555555555 was made from 1 batch" in await lineal(suite, "lineage", "55555555")


async def test_an_endpoint_is_shown_as_it_was(suite: Suite) -> None:
    await suite.start("lineage", "registry")
    stub = suite.stub("registry")
    await stub.RegisterModel(registry_api.RegisterModelRequest(request_id=new_request_id(), model=Model(name="m")))
    for description in ("first", "second"):
        endpoint = Endpoint(name="delays", model="m", description=description)
        request = registry_api.RegisterEndpointRequest(request_id=new_request_id(), endpoint=endpoint)
        position = (await stub.RegisterEndpoint(request)).position
    past = json.loads(await lineal(suite, "--json", "endpoint", "delays", "--position", str(position - 1)))
    assert past["endpoint"]["description"] == "first"
    now = json.loads(await lineal(suite, "--json", "endpoint", "delays", "--at", "2100-01-01 00:00"))
    assert now["endpoint"]["description"] == "second"


async def test_events_of_unknown_types_pass_through_readers(suite: Suite) -> None:
    await suite.start("lineage", "registry")
    stub = suite.stub("registry")
    await stub.RegisterModel(registry_api.RegisterModelRequest(request_id=new_request_id(), model=Model(name="m")))
    endpoint = Endpoint(name="delays", model="m")
    declared = registry_api.RegisterEndpointRequest(request_id=new_request_id(), endpoint=endpoint)
    await stub.RegisterEndpoint(declared)
    position = await append_unknown(suite, "endpoint/delays")

    def is_whole(event: Event) -> bool:
        return (event.type, event.message, event.payload, event.position) == (UNKNOWN, None, PAYLOAD, position)

    # A subscriber to everything, a reader of the stream, and read tables that wait for the position.
    telemetry = Telemetry("test", None)
    async with open_service_channel(suite.address("lineage"), service="test", telemetry=telemetry) as channel:
        log = LineageLog(channel)
        async with aclosing(log.subscribe(position - 1)) as deliveries:
            assert is_whole((await anext(deliveries)).events[0])
        assert is_whole((await log.read_stream("endpoint/delays"))[-1])
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await stub.GetSaga(registry_api.GetSagaRequest(saga_id="none", min_position=position))
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    found = await stub.GetEndpoint(registry_api.GetEndpointRequest(name="delays"))
    assert found.endpoint.name == "delays"
    shown = json.loads(await lineal(suite, "--json", "events", "--stream", "endpoint/"))
    assert [(record["type"], record["payload"] is None) for record in shown][1:] == [(UNKNOWN, True)]
    # What decides on a stream must know all of it.
    changed = registry_api.RegisterEndpointRequest(
        request_id=new_request_id(), endpoint=Endpoint(name="delays", model="m", owner="ada")
    )
    with pytest.raises(grpc.aio.AioRpcError, match="that this version does not know"):
        await stub.RegisterEndpoint(changed)
