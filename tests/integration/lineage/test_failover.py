"""Writers that die or freeze, and standbys that take over.

The long run: `LINEAL_TEST_FAILOVERS=20 LINEAL_TEST_KILLS=200 python -m pytest --timeout 3600` on this file.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import psycopg
import pytest
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, GetHeadRequest, SubscribeRequest
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.channel import open_aio_channel
from tests.integration.lineage.processes import History, free_port, lineage, writer_epoch

FAILOVERS = int(os.environ.get("LINEAL_TEST_FAILOVERS", "2"))
KILLS = int(os.environ.get("LINEAL_TEST_KILLS", "4"))
TAKE_OVER_SECONDS = 10.0
WRITERS = 6


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@asynccontextmanager
async def writing(history: History, address: str) -> AsyncIterator[grpc.aio.Channel]:
    """Let clients write within the block, and the channel be used a little longer."""
    async with open_aio_channel(address) as channel, asyncio.TaskGroup() as group:
        stub = LineageServiceStub(channel)
        writers = [group.create_task(history.write(stub, n)) for n in range(WRITERS)]
        yield channel
        for writer in writers:
            writer.cancel()


async def health(port: int) -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.aio.AioRpcError:
            return "AWAY"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def became(port: int, status: str) -> None:
    while await health(port) != status:
        await asyncio.sleep(0.05)


async def test_kill_9_inside_commits_loses_and_doubles_nothing(tmp_path: Path, url: str | None) -> None:
    port, history, chance = free_port(), History(), random.Random(KILLS)
    async with writing(history, f"127.0.0.1:{port}"):
        for _ in range(KILLS):
            async with lineage(tmp_path, port, url) as process:
                await history.next_told()
                await asyncio.sleep(chance.uniform(0, 0.05))
                process.kill()
    async with lineage(tmp_path, port, url), open_aio_channel(f"127.0.0.1:{port}") as channel:
        assert await history.check(channel) >= len(history.acknowledged) >= KILLS


class Pair:
    """Two processes on one database, of which one writes."""

    def __init__(self, folder: Path, url: str, stack: AsyncExitStack) -> None:
        self.ports = [free_port(), free_port()]
        self.address = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.processes: dict[int, asyncio.subprocess.Process] = {}
        self._folder = folder
        self._url = url
        self._stack = stack

    async def start(self, port: int, status: str) -> None:
        self.processes[port] = await self._stack.enter_async_context(lineage(self._folder, port, self._url))
        await became(port, status)


@asynccontextmanager
async def pair(folder: Path, url: str) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        found = Pair(folder, url, stack)
        await found.start(found.ports[0], "SERVING")
        await found.start(found.ports[1], "NOT_SERVING")
        yield found


@pytest.mark.slow
async def test_a_standby_takes_over_from_a_writer_that_dies(tmp_path: Path, postgres_url: str) -> None:
    history, waits = History(), []
    async with pair(tmp_path, postgres_url) as both:
        async with writing(history, both.address):
            for n in range(FAILOVERS):
                writer, standby = both.ports[n % 2], both.ports[(n + 1) % 2]
                await history.next_told()
                killed = time.monotonic()
                both.processes[writer].kill()
                # Answers of the one that died may still be on their way.
                await became(standby, "SERVING")
                await history.next_told()
                waits.append(time.monotonic() - killed)
                await both.start(writer, "NOT_SERVING")
        assert writer_epoch(postgres_url) == FAILOVERS + 1
        async with open_aio_channel(both.address) as channel:
            assert await history.check(channel) >= FAILOVERS
    assert max(waits) < TAKE_OVER_SECONDS, waits


@pytest.mark.slow
async def test_a_writer_that_froze_is_refused_when_it_wakes(tmp_path: Path, postgres_url: str) -> None:
    history, waits = History(), []
    async with pair(tmp_path, postgres_url) as both:
        async with writing(history, both.address):
            for n in range(max(1, FAILOVERS // 2)):
                writer, standby = both.ports[n % 2], both.ports[(n + 1) % 2]
                await history.next_told()
                frozen = time.monotonic()
                both.processes[writer].send_signal(signal.SIGSTOP)
                await became(standby, "SERVING")
                waits.append(time.monotonic() - frozen)
                await history.next_told()
                both.processes[writer].send_signal(signal.SIGCONT)
                assert await both.processes[writer].wait() == 1
                await both.start(writer, "NOT_SERVING")
        async with open_aio_channel(both.address) as channel:
            assert await history.check(channel) > 0
    assert max(waits) < TAKE_OVER_SECONDS, waits


@pytest.mark.slow
async def test_a_writer_that_froze_inside_a_transaction_holds_up_nobody(tmp_path: Path, postgres_url: str) -> None:
    history = History()
    async with (
        pair(tmp_path, postgres_url) as both,
        open_aio_channel(f"127.0.0.1:{both.ports[0]}") as channel,
        await psycopg.AsyncConnection.connect(postgres_url.replace("+psycopg", "")) as other,
    ):
        stub = LineageServiceStub(channel)
        assert await history.append(stub, "a", 1)
        # Nobody can insert, so the writer's statement stays in its transaction.
        await other.execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
        appending = asyncio.create_task(history.append(stub, "a", 1))
        waiting = (
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO events%'"
        )
        while not await (await other.execute(waiting)).fetchone():
            await asyncio.sleep(0.02)
        both.processes[both.ports[0]].send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        await became(both.ports[1], "SERVING")
        assert time.monotonic() - frozen < TAKE_OVER_SECONDS
        assert not await appending
        await other.rollback()
        both.processes[both.ports[0]].send_signal(signal.SIGCONT)
        assert await both.processes[both.ports[0]].wait() == 1
        async with open_aio_channel(f"127.0.0.1:{both.ports[1]}") as new:
            assert await history.append(LineageServiceStub(new), "a", 1)
            assert await history.check(new) == 2


async def test_a_standby_refuses_everything_and_can_be_stopped(tmp_path: Path, postgres_url: str) -> None:
    async with pair(tmp_path, postgres_url) as both:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{both.ports[1]}") as channel:
            stub: Any = LineageServiceStub(channel)
            for call in (stub.GetHead(GetHeadRequest()), stub.AppendEvents(AppendEventsRequest())):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await call
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "stands by" in str(raised.value.details())
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Subscribe(SubscribeRequest()).read()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        both.processes[both.ports[1]].terminate()
        assert await both.processes[both.ports[1]].wait() == 0


async def test_a_second_process_is_refused_on_sqlite(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    port = free_port()
    database = f"sqlite:///{tmp_path / 'lineage' / 'lineage.db'}"
    async with lineage(tmp_path, port):
        await became(port, "SERVING")
        for folder, url in ((tmp_path, None), (other, database)):
            async with lineage(folder, free_port(), url) as second:
                assert await second.wait() == 1


async def test_a_write_that_fails_ends_the_process_and_loses_nothing(tmp_path: Path) -> None:
    port, history = free_port(), History()
    async with writing(history, f"127.0.0.1:{port}"), lineage(tmp_path, port) as process:
        await history.next_told()
        # As on a broken disk: no file of this process can be longer, so a write to the database fails soon.
        psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (65536, 65536))
        assert await process.wait() == 1
    assert "disk I/O error" in (tmp_path / f"{port}.log").read_text()
    async with lineage(tmp_path, port), open_aio_channel(f"127.0.0.1:{port}") as channel:
        assert await history.check(channel) > 0


async def test_an_fsync_that_fails_ends_the_process_and_loses_nothing(tmp_path: Path) -> None:
    port, history = free_port(), History()
    async with (
        writing(history, f"127.0.0.1:{port}"),
        lineage(tmp_path, port, module="tests.integration.lineage.failing_fsync") as process,
    ):
        await history.next_told()
        process.send_signal(signal.SIGUSR1)
        assert await process.wait() == 1
    assert "disk I/O error" in (tmp_path / f"{port}.log").read_text()
    async with lineage(tmp_path, port), open_aio_channel(f"127.0.0.1:{port}") as channel:
        assert await history.check(channel) > 0
