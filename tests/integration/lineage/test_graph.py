"""The lineage graph, walked both ways."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.message import Message

from chassis.ids import new_request_id
from chassis.server import RunningServer, start
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, SnapshotCreated
from lineal.api.lineage.v1.graph_pb2 import NodeKind
from lineal.api.lineage.v1.lineage_service_pb2 import Direction, GetLineageRequest
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.projection_service_pb2 import ListProjectionsRequest, VerifyProjectionsRequest
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceStub
from lineal.api.monitor.v1.events_pb2 import SegmentSealed
from lineal.api.monitor.v1.prediction_pb2 import FeatureLookup
from lineal.api.registry.v1.events_pb2 import BundleRegistered
from lineal.api.serving.v1.events_pb2 import ScoringCompleted
from lineal.api.serving.v1.scoring_pb2 import ScoringResult
from lineal.api.trainer.v1.events_pb2 import ModelImported, RunCompleted, RunStarted
from services.lineage.server import build
from services.lineage.settings import Settings

# Snapshot s1 has batches 1 and 2; batch 3 came later; the empty batch has no rows to lead to.
STORY: list[Message] = [
    BatchAccepted(dataset="flights", batch_id="1", accepted_rows=10),
    BatchAccepted(dataset="flights", batch_id="2", accepted_rows=10),
    BatchAccepted(dataset="flights", batch_id="empty", quarantined_rows=3),
    BatchAccepted(dataset="weather", batch_id="1", accepted_rows=5),
    SnapshotCreated(dataset="flights", snapshot_digest="s1", as_of_position=3),
    BatchAccepted(dataset="flights", batch_id="3", accepted_rows=10),
    SnapshotCreated(dataset="weather", snapshot_digest="w1", as_of_position=6),
    SnapshotCreated(dataset="flights", snapshot_digest="s2", as_of_position=6),
    TrainingSetBuilt(training_set_digest="t1", snapshots={"flights": "s1", "weather": "w1"}),
    RunStarted(run_id="r1", training_set_digest="t1"),
    RunCompleted(run_id="r1", bundle_digest="b1"),
    BundleRegistered(bundle_digest="b1", run_id="r1", training_set_digest="t1"),
    ModelImported(run_id="r2", bundle_digest="b2"),
    SegmentSealed(endpoint="delay", segment_digest="p1", bundle_digests=["b1", "b2"]),
]


@pytest.fixture(params=["sqlite", "postgres"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunningServer]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with start("lineage", Settings(port=0, data_dir=tmp_path, database_url=url), build) as running:
        for message in STORY:
            await running.harness.log.append("story/1", [message], request_id=new_request_id(), expected_revision=None)
        yield running


@pytest.fixture
async def channel(server: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


def shown(response: Any) -> list[tuple[str, str]]:
    return [(edge.source.name, edge.target.name) for edge in response.edges]


async def walk(channel: grpc.aio.Channel, kind: Any, name: str, **asked: Any) -> Any:
    stub: Any = LineageServiceStub(channel)
    return await stub.GetLineage(GetLineageRequest(kind=kind, name=name, **({"min_position": len(STORY)} | asked)))


async def test_a_segment_leads_back_to_its_batches(channel: grpc.aio.Channel) -> None:
    found = await walk(channel, NodeKind.NODE_KIND_SEGMENT, "p1")
    assert shown(found) == [
        ("b1", "p1"),
        ("b2", "p1"),
        ("r1", "b1"),
        ("r2", "b2"),
        ("t1", "r1"),
        ("s1", "t1"),
        ("w1", "t1"),
        ("flights/1", "s1"),
        ("flights/2", "s1"),
        ("weather/1", "w1"),
    ]
    assert found.node.type == "lineal.api.monitor.v1.SegmentSealed"
    assert found.position == len(STORY)


async def test_a_batch_leads_to_all_it_had_a_part_in(channel: grpc.aio.Channel) -> None:
    first = await walk(channel, NodeKind.NODE_KIND_BATCH, "flights/1", direction=Direction.DIRECTION_IMPACT)
    assert shown(first) == [
        ("flights/1", "s1"),
        ("flights/1", "s2"),
        ("s1", "t1"),
        ("t1", "r1"),
        ("r1", "b1"),
        ("b1", "p1"),
    ]
    third = await walk(channel, NodeKind.NODE_KIND_BATCH, "flights/3", direction=Direction.DIRECTION_IMPACT)
    assert shown(third) == [("flights/3", "s2")]


async def test_a_scoring_lies_between_what_it_was_made_from_and_nothing(
    channel: grpc.aio.Channel, server: RunningServer
) -> None:
    result = ScoringResult(result_digest="scored")
    event = ScoringCompleted(bundle_digest="b1", training_set_digest="t2", snapshot_digest="s2", result=result)
    again = ScoringCompleted(
        bundle_digest="b2", answering_bundle_digests=["b1"], result=ScoringResult(result_digest="again")
    )
    features = TrainingSetBuilt(training_set_digest="t2", snapshots={"flights": "s2"}, unlabelled=True)
    added = await server.harness.log.append(
        "story/1", [features, event, again], request_id=new_request_id(), expected_revision=None
    )
    up = await walk(channel, NodeKind.NODE_KIND_SCORING, "scored", min_position=added.position)
    assert {("b1", "scored"), ("t2", "scored"), ("s2", "t2"), ("flights/3", "s2"), ("r1", "b1")} <= {*shown(up)}
    asked = {"direction": Direction.DIRECTION_IMPACT, "min_position": added.position}
    third = await walk(channel, NodeKind.NODE_KIND_BATCH, "flights/3", **asked)
    assert shown(third) == [("flights/3", "s2"), ("s2", "t2"), ("t2", "scored")]
    first = await walk(channel, NodeKind.NODE_KIND_BATCH, "weather/1", **asked)
    assert {("b1", "p1"), ("b1", "again"), ("b1", "scored")} <= {*shown(first)}


async def test_a_batch_leads_to_segments_that_may_have_looked_it_up(
    channel: grpc.aio.Channel, server: RunningServer
) -> None:
    log = server.harness.log

    async def add(*messages: Message) -> int:
        done = await log.append("story/2", messages, request_id=new_request_id(), expected_revision=None)
        return done.position

    def sealed(digest: str, *reach: int, version: str = "f1") -> SegmentSealed:
        used = [FeatureLookup(feature_set="delay", feature_set_version=version, max_position=one) for one in reach]
        return SegmentSealed(endpoint="delay", segment_digest=digest, bundle_digests=["b1"], lookups=used)

    await add(
        FeatureViewRegistered(feature_view=FeatureView(name="v", dataset="flights"), version="v1"),
        FeatureViewRegistered(feature_view=FeatureView(name="w", dataset="weather"), version="w1"),
        FeatureSetRegistered(feature_set=FeatureSet(name="delay"), version="f1", view_versions={"v": "v1"}),
        FeatureSetRegistered(feature_set=FeatureSet(name="delay"), version="f2", view_versions={"w": "w1"}),
    )
    # The batch `flights/3` is at position 6.
    end = await add(
        sealed("q-before", 5), sealed("q-after", 3, 6), sealed("q-later", 9), sealed("q-weather", 9, version="f2")
    )
    third = await walk(
        channel, NodeKind.NODE_KIND_BATCH, "flights/3", direction=Direction.DIRECTION_IMPACT, min_position=end
    )
    assert [(edge.target.name, edge.possible) for edge in third.edges] == [
        ("s2", False),
        ("q-after", True),
        ("q-later", True),
    ]
    found: list[Any] = []
    token = ""
    while not found or token:
        asked = {"direction": Direction.DIRECTION_IMPACT, "page_size": 1, "page_token": token}
        page = await walk(channel, NodeKind.NODE_KIND_BATCH, "flights/3", min_position=end, **asked)
        found += list(page.edges)
        token = page.next_page_token
    assert found == list(third.edges)
    whole = await walk(channel, NodeKind.NODE_KIND_SEGMENT, "q-later", min_position=end)
    assert not any(edge.possible for edge in whole.edges)


async def test_pages_add_up_to_the_whole_as_of_the_first(channel: grpc.aio.Channel, server: RunningServer) -> None:
    whole = shown(await walk(channel, NodeKind.NODE_KIND_SEGMENT, "p1"))
    found: list[tuple[str, str]] = []
    token = ""
    while not found or token:
        page = await walk(channel, NodeKind.NODE_KIND_SEGMENT, "p1", page_size=3, page_token=token)
        found += shown(page)
        token = page.next_page_token
        late = SegmentSealed(endpoint="delay", segment_digest="p1", bundle_digests=[f"late {len(found)}"])
        await server.harness.log.append("story/1", [late], request_id=new_request_id(), expected_revision=None)
    assert found == whole


@pytest.mark.parametrize(
    ("kind", "name", "token", "code"),
    [
        (NodeKind.NODE_KIND_BUNDLE, "nobody", "", grpc.StatusCode.NOT_FOUND),
        (NodeKind.NODE_KIND_BATCH, "flights/empty", "", grpc.StatusCode.NOT_FOUND),
        (NodeKind.NODE_KIND_UNSPECIFIED, "", "", grpc.StatusCode.INVALID_ARGUMENT),
        (NodeKind.NODE_KIND_UNSPECIFIED, "nobody", "", grpc.StatusCode.NOT_FOUND),
        (NodeKind.NODE_KIND_BUNDLE, "b1", "x", grpc.StatusCode.INVALID_ARGUMENT),
        (NodeKind.NODE_KIND_BUNDLE, "b1", "WzEsIDAsIDVd", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_walked_is_refused(
    channel: grpc.aio.Channel, kind: Any, name: str, token: str, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await walk(channel, kind, name, page_token=token)
    assert raised.value.code() is code


async def test_pages_of_one_edge_add_up_both_ways(channel: grpc.aio.Channel) -> None:
    for kind, name, direction in (
        (NodeKind.NODE_KIND_BATCH, "flights/1", Direction.DIRECTION_IMPACT),
        (NodeKind.NODE_KIND_SEGMENT, "p1", Direction.DIRECTION_PROVENANCE),
    ):
        whole = shown(await walk(channel, kind, name, direction=direction))
        found: list[tuple[str, str]] = []
        token = ""
        while not found or token:
            page = await walk(channel, kind, name, direction=direction, page_size=1, page_token=token)
            found += shown(page)
            token = page.next_page_token
        assert found == whole


async def test_a_node_is_found_by_the_beginning_of_its_name(server: RunningServer, channel: grpc.aio.Channel) -> None:
    digests = ["0123456789abcdef" * 4, "0123456789ab0000" * 4]
    made = [SnapshotCreated(dataset="flights", snapshot_digest=digest, as_of_position=1) for digest in digests]
    done = await server.harness.log.append("s/1", made, request_id=new_request_id(), expected_revision=None)
    found = await walk(channel, NodeKind.NODE_KIND_UNSPECIFIED, digests[1][:16], min_position=done.position)
    assert (found.node.kind, found.node.name) == (NodeKind.NODE_KIND_SNAPSHOT, digests[1])
    for name, code in ((digests[0][:8], grpc.StatusCode.INVALID_ARGUMENT), ("0123456", grpc.StatusCode.NOT_FOUND)):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await walk(channel, NodeKind.NODE_KIND_UNSPECIFIED, name)
        assert raised.value.code() is code


async def test_the_command_rebuild_drops_the_tables_and_the_next_start_has_them_again(tmp_path: Path) -> None:
    async def rebuild() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services.lineage", "rebuild"),
            env=os.environ | {"LINEAL_DATA_DIR": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    settings = Settings(port=0, data_dir=tmp_path)
    async with start("lineage", settings, build) as running:
        for message in STORY:
            await running.harness.log.append("s/1", [message], request_id=new_request_id(), expected_revision=None)
        code, output = await rebuild()
        assert (code, "another lineage runs" in output) == (1, True)
    code, output = await rebuild()
    assert (code, "dropped graph-v3" in output) == (0, True)
    async with start("lineage", settings, build) as running, grpc.aio.insecure_channel(running.address) as channel:
        assert len(shown(await walk(channel, NodeKind.NODE_KIND_SEGMENT, "p1"))) == 10


async def test_the_graph_rebuilt_is_the_graph(channel: grpc.aio.Channel) -> None:
    await walk(channel, NodeKind.NODE_KIND_SEGMENT, "p1")
    stub: Any = ProjectionServiceStub(channel)
    [listed] = (await stub.ListProjections(ListProjectionsRequest())).projections
    assert (listed.name, listed.position) == ("graph", len(STORY))
    [found] = (await stub.VerifyProjections(VerifyProjectionsRequest())).verifications
    assert found.live_digest == found.rebuilt_digest
    assert (found.projection.position, found.rows) == (len(STORY), 20)
