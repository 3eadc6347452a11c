"""Parked events as a person meets them: the RPCs of a service, and `lineal parked`."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from chassis.ids import new_request_id
from chassis.log import InMemoryLog
from chassis.server import Harness, RunningServer, start
from chassis.settings import ServiceSettings
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from lineal.api.lineage.v1 import projection_service_pb2 as api
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceStub
from lineal.cli.tables import SERVICES, rebuilt, standing
from lineal.profile import Profile
from tests.integration.chassis.test_projection import Counts
from tests.integration.running import Suite


@asynccontextmanager
async def serving(folder: Path, *names: str, heals_after: int = 1000) -> AsyncIterator[tuple[RunningServer, Any]]:
    """A service whose projection refuses the batch `bad`, and its stub; it has read everything."""
    log = InMemoryLog()
    for name in names:
        batch = BatchAccepted(dataset="a", batch_id=name)
        await log.append("batches/a", [batch], request_id=new_request_id(), expected_revision=None)

    async def build(harness: Harness) -> None:
        harness.log = log
        runners.append(harness.add_projection(Counts(poison="bad", heals_after=heals_after)))

    runners: list[Any] = []
    async with start("sample", ServiceSettings(port=0, data_dir=folder, drain_seconds=0), build) as server:
        await runners[0].wait_for(len(names))
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield server, ProjectionServiceStub(channel)


async def lineal(profile: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "lineal.cli", "--connect", str(profile), "--json", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return json.loads(out)


async def test_parked_events_are_listed_in_pages_and_replayed(tmp_path: Path) -> None:
    async with serving(tmp_path, "1", "bad", "2", "bad", "bad", heals_after=16) as (_, stub):
        (listed,) = (await stub.ListProjections(api.ListProjectionsRequest())).projections
        assert (listed.name, listed.position, listed.parked) == ("counts", 5, 3)
        first = await stub.ListParkedEvents(api.ListParkedEventsRequest(page_size=2))
        second = await stub.ListParkedEvents(api.ListParkedEventsRequest(page_token=first.next_page_token))
        assert [event.position for event in (*first.events, *second.events)] == [2, 4, 5]
        assert not second.next_page_token
        assert first.events[0].error == "ValueError: cannot swallow this"
        assert (first.events[0].projection, first.events[0].stream) == ("counts", "batches/a")
        # The sixteenth refusal is the last one.
        done = await stub.ReplayParkedEvents(api.ReplayParkedEventsRequest(projection="counts", positions=[2]))
        assert (done.replayed, done.parked) == (0, 3)
        done = await stub.ReplayParkedEvents(api.ReplayParkedEventsRequest())
        assert (done.replayed, done.parked) == (3, 0)
        (verified,) = (await stub.VerifyProjections(api.VerifyProjectionsRequest())).verifications
        assert verified.live_digest == verified.rebuilt_digest


async def test_a_projection_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError, match="no projection 'count' here, but counts") as failed:
            await stub.ListParkedEvents(api.ListParkedEventsRequest(projection="count"))
        assert failed.value.code() == grpc.StatusCode.NOT_FOUND


async def test_the_command_line_lists_and_replays(tmp_path: Path) -> None:
    async with serving(tmp_path, "bad", "1", heals_after=5) as (server, _):
        profile = tmp_path / "profile.yaml"
        Profile(dict.fromkeys(SERVICES, server.address)).save(profile)
        (found,) = await lineal(profile, "parked", "--service", "ingest")
        assert (found["projection"], found["position"], found["tries"]) == ("ingest/counts", 1, 5)
        assert await lineal(profile, "parked", "--service", "ingest", "--replay") == []


async def test_the_doctor_tells_of_parked_events_and_of_a_rebuild(tmp_path: Path, suite: Suite) -> None:
    await suite.start("lineage")
    async with serving(tmp_path / "sample", "1", "bad", heals_after=5) as (server, _):
        profile = Profile(dict.fromkeys(SERVICES, server.address) | {"lineage": suite.address("lineage")})
        found = {name: (good, finding) for name, good, finding in await asyncio.to_thread(standing, profile)}
        assert found["lineage/graph keeps up"] == (True, "0 events behind")
        assert "lineage/graph has applied every event" not in found
        assert found["ingest/counts has applied every event"] == (
            False,
            "1 could not be applied; `lineal parked` tells why",
        )
        # The cause has gone, so a rebuild has what the live tables lack.
        found = {name: (good, finding) for name, good, finding in await asyncio.to_thread(rebuilt, profile)}
        good, finding = found["ingest/counts rebuilds alike"]
        assert not good
        assert finding.endswith("the rebuilt tables differ from the live ones; 1 parked, 0 in the rebuild")
