"""What was acknowledged is there, whatever happens to the process."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from chassis.channels import open_service_channel
from chassis.ids import new_request_id
from chassis.log import LineageLog
from chassis.telemetry import Telemetry
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from tests.integration.lineage.processes import free_port, lineage


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_url")


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, url: str | None) -> None:
    port = free_port()
    telemetry = Telemetry("test", None)
    acknowledged: dict[str, int] = {}
    delivered: list[int] = []
    total, writers = 300, 6
    dangerous = asyncio.Event()

    async def write(log: LineageLog, writer: int) -> None:
        for n in range(total // writers):
            name = f"{writer}-{n}"
            batch = BatchAccepted(dataset="d", batch_id=name)
            done = await log.append(f"batches/{writer}", [batch], request_id=new_request_id(), expected_revision=n)
            acknowledged[name] = done.position
            if len(acknowledged) >= total // 3:
                dangerous.set()

    async def follow(log: LineageLog) -> None:
        async with aclosing(log.subscribe(0)) as deliveries:
            async for delivery in deliveries:
                delivered.extend(event.position for event in delivery.events)
                if len(delivered) >= total:
                    return

    async with open_service_channel(f"127.0.0.1:{port}", service="test", telemetry=telemetry) as channel:
        log = LineageLog(channel)
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            async with lineage(tmp_path, port, url) as process:
                group.create_task(follow(log))
                for writer in range(writers):
                    group.create_task(write(log, writer))
                await dangerous.wait()
                process.kill()
            before = len(acknowledged)
            async with lineage(tmp_path, port, url):
                while len(delivered) < total:
                    await asyncio.wait(group._tasks, return_when=asyncio.FIRST_COMPLETED)
                assert before < total
                events = [event for n in range(writers) for event in await log.read_stream(f"batches/{n}")]
                assert await log.head() == total
    telemetry.shutdown()
    assert delivered == list(range(1, total + 1))
    there = {event.message.batch_id: event.position for event in events if isinstance(event.message, BatchAccepted)}
    assert there == acknowledged
