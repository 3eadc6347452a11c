"""Old events in Parquet files: everything reads as before, and nothing is lost whenever the process ends."""

import asyncio
import json
import os
import random
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from sqlalchemy import Connection, create_engine, func, select, update
from sqlalchemy.pool import NullPool

from chassis.server import start
from lineal import record_files
from lineal.api.lineage.v1 import keeping_service_pb2 as keeping
from lineal.api.lineage.v1 import lineage_service_pb2 as api
from lineal.api.lineage.v1 import proof_service_pb2 as proofs
from lineal.api.lineage.v1.keeping_service_pb2_grpc import KeepingServiceStub
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.proof_service_pb2_grpc import ProofServiceStub
from lineal.api.lineage.v1.record_pb2 import EventFilter, EventRecord
from lineal.channel import open_aio_channel
from services.lineage.server import build
from services.lineage.settings import Settings
from services.lineage.tables import events, sealed_ranges
from tests.integration.lineage.processes import free_port, lineage
from tests.integration.lineage.test_log_commands import lineal
from tests.integration.running import Suite

EVENTS, SEALED = 1500, 1200
KILLS = int(os.environ.get("LINEAL_TEST_SEALING_KILLS", "1"))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'log.db'}"


def appends() -> list[api.AppendEventsRequest]:
    requests = []
    for n in range(EVENTS // 25):
        request = api.AppendEventsRequest(request_id=str(uuid.uuid4()), stream=f"{'ab'[n % 2]}/{n % 10}")
        for k in range(25):
            request.events.add(event_id=str(uuid.uuid4()), type=f"some.Event{k % 3}", payload=f"{n} {k}".encode() * 9)
        requests.append(request)
    return requests


async def seal(channel: grpc.aio.Channel, **until: Any) -> list[keeping.SealedRange]:
    stub: Any = KeepingServiceStub(channel)
    return [response.range async for response in stub.SealEvents(keeping.SealEventsRequest(**until))]


async def findings(channel: grpc.aio.Channel) -> list[tuple[str, str]]:
    stub: Any = KeepingServiceStub(channel)
    return [(f.layer, f.message) async for r in stub.VerifyLog(keeping.VerifyLogRequest()) for f in r.findings]


async def all_of(channel: grpc.aio.Channel, request: api.SubscribeRequest) -> AsyncGenerator[bytes, None]:
    stub: Any = LineageServiceStub(channel)
    call = stub.Subscribe(request)
    async for response in call:
        for stored in response.records:
            yield stored.record
        if response.live:
            break
    call.cancel()


async def everything(channel: grpc.aio.Channel) -> dict[str, Any]:
    """Read the log in every way that there is."""
    stub: Any = LineageServiceStub(channel)
    prover: Any = ProofServiceStub(channel)
    found: dict[str, Any] = {}
    narrow = EventFilter(types=["some.Event1"], stream_prefixes=["a/"])
    for name, wanted in (("all", EventFilter()), ("narrow", narrow)):
        async with aclosing(all_of(channel, api.SubscribeRequest(filter=wanted))) as records:
            found[f"subscribed {name}"] = [record async for record in records]
        for newest in (False, True):
            request = api.ListEventsRequest(filter=wanted, newest_first=newest, page_size=700)
            listed: list[bytes] = []
            while True:
                page = await stub.ListEvents(request)
                listed += [stored.record for stored in page.records]
                request.page_token = page.next_page_token
                if not request.page_token:
                    break
            found[f"listed {name} {newest}"] = listed
    stream = await stub.ReadStream(api.ReadStreamRequest(stream="a/2", after_revision=7))
    found["stream"] = ([stored.record for stored in stream.records], stream.head_revision)
    record = EventRecord.FromString(found["listed all False"][41])
    found["by id"] = (await stub.GetEvent(api.GetEventRequest(event_id=record.event_id))).record
    at = api.ListEventsRequest(recorded_until_time=record.recorded_time, page_size=1000)
    found["as of"] = len((await stub.ListEvents(at)).records)
    for position in (1, 600, SEALED, SEALED + 1):
        found[f"proof {position}"] = await prover.GetInclusionProof(
            proofs.GetInclusionProofRequest(position=position, size=EVENTS)
        )
    found["growth"] = await prover.GetConsistencyProof(proofs.GetConsistencyProofRequest(old_size=300, size=EVENTS))
    return found


def database(url: str) -> Connection:
    return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect()


async def test_sealed_events_are_read_proven_and_repeated_as_before(tmp_path: Path, url: str) -> None:
    settings = Settings(port=0, data_dir=tmp_path, database_url=url, drain_seconds=0)
    requests = appends()
    async with start("lineage", settings, build) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = LineageServiceStub(channel)
        answers = [await stub.AppendEvents(request) for request in requests]
        before = await everything(channel)
        ranges = [*await seal(channel, position=1000), *await seal(channel, position=SEALED)]
        assert [(r.first_position, r.last_position) for r in ranges] == [(1, 1000), (1001, SEALED)]
        assert await seal(channel, position=SEALED) == await seal(channel, position=5) == []
        assert await everything(channel) == before
        with pytest.raises(grpc.aio.AioRpcError, match="the log has 1500 events"):
            await seal(channel, position=EVENTS + 1)
    with database(url) as connection:
        sizes = connection.execute(select(func.length(events.c.record)).order_by(events.c.position)).scalars().all()
        assert (set(sizes[:SEALED]), min(sizes[SEALED:]) > 0) == ({0}, True)
    async with start("lineage", settings, build) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = LineageServiceStub(channel)
        assert await everything(channel) == before
        for request, answer in zip(requests, answers, strict=True):
            again = await stub.AppendEvents(request)
            assert (again.repeated_request, again.position, list(again.events)) == (
                True,
                answer.position,
                list(answer.events),
            )
        requests[3].events[0].payload = b"other"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.AppendEvents(requests[3])
        assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS
        late = api.AppendEventsRequest(request_id=str(uuid.uuid4()), stream="a/2", expected_revision=7)
        late.events.add(event_id=str(uuid.uuid4()), type="some.Event", payload=b"late")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.AppendEvents(late)
        assert raised.value.code() is grpc.StatusCode.ABORTED
        late.expected_revision = before["stream"][1]
        assert (await stub.AppendEvents(late)).position == EVENTS + 1
        assert await findings(channel) == []
        # The file is a table that other tools read.
        path = server.harness.artifacts.path(ranges[0].digest)
        assert list(record_files.read(path)) == before["subscribed all"][:1000]


async def test_events_are_sealed_by_time_from_the_command_line(suite: Suite) -> None:
    await suite.start("lineage")
    for request in appends():
        await suite.stub("lineage").AppendEvents(request)
    now = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
    (found,) = json.loads(await lineal(suite, "seal", "--until", now, "--json"))
    assert (found["first_position"], found["last_position"]) == ("1", str(EVENTS))
    assert "nothing is left to seal" in await lineal(suite, "seal", "--until", now)


async def test_a_changed_event_is_not_sealed(tmp_path: Path, url: str) -> None:
    settings = Settings(port=0, data_dir=tmp_path, database_url=url, drain_seconds=0)
    async with start("lineage", settings, build) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = LineageServiceStub(channel)
        for request in appends():
            await stub.AppendEvents(request)
        with database(url) as connection:
            connection.execute(update(events).where(events.c.position == 700).values(record=b"changed"))
            with pytest.raises(grpc.aio.AioRpcError, match="position 700 was changed"):
                await seal(channel, position=SEALED)
            assert connection.execute(select(func.count()).select_from(sealed_ranges)).scalar_one() == 0
            assert connection.execute(select(func.min(func.length(events.c.record)))).scalar_one() > 0


async def test_a_damaged_file_is_told_by_its_range(tmp_path: Path) -> None:
    settings = Settings(port=0, data_dir=tmp_path, drain_seconds=0)
    async with start("lineage", settings, build) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = LineageServiceStub(channel)
        for request in appends():
            await stub.AppendEvents(request)
        (sealed,) = await seal(channel, position=SEALED)
        path = server.harness.artifacts.path(sealed.digest)
        whole = path.read_bytes()
        for damage in (lambda: path.write_bytes(whole[:-9]), path.unlink):
            damage()
            with pytest.raises(grpc.aio.AioRpcError, match="the sealed events 1 to 1200 cannot be read"):
                await stub.ListEvents(api.ListEventsRequest())
            (finding,) = await findings(channel)
            assert finding[0] == "sealed range"
            later = await stub.ListEvents(api.ListEventsRequest(after_position=SEALED))
            assert len(later.records) == 100
        path.write_bytes(whole)
        assert await findings(channel) == []


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * KILLS)
async def test_kill_9_while_sealing_loses_nothing(tmp_path: Path, url: str) -> None:
    port, chance = free_port(), random.Random(9)
    address = f"127.0.0.1:{port}"
    async with lineage(tmp_path, port, url), open_aio_channel(address) as channel:
        stub: Any = LineageServiceStub(channel)
        for request in appends():
            await stub.AppendEvents(request)
        before = await everything(channel)
    for n in range(KILLS):
        async with lineage(tmp_path, port, url) as process:
            async with open_aio_channel(address) as channel:
                assert (await LineageServiceStub(channel).GetHead(api.GetHeadRequest())).position == EVENTS
            # A channel of its own, which does not wait for the next process to do it again.
            async with grpc.aio.insecure_channel(address) as channel:
                sealing = asyncio.create_task(seal(channel, position=SEALED * (n + 1) // KILLS))
                await asyncio.wait([sealing], timeout=chance.uniform(0, 0.1))
                process.kill()
                await asyncio.wait([sealing])
                assert sealing.exception() or sealing.result()
    async with lineage(tmp_path, port, url), open_aio_channel(address) as channel:
        assert await everything(channel) == before
        await seal(channel, position=EVENTS)
        assert await everything(channel) == before
        assert await findings(channel) == []
