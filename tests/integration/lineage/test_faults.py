"""Slow readers, lost databases, full disks."""

import asyncio
import sqlite3
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest

from chassis.server import start
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, GetHeadRequest, SubscribeRequest
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.record_pb2 import EventRecord
from services.lineage.server import build
from services.lineage.settings import Settings
from services.lineage.store_writer import SqliteWriter
from services.lineage.tables import Stored


def request(count: int = 1, size: int = 1) -> AppendEventsRequest:
    made = AppendEventsRequest(request_id=str(uuid.uuid4()), stream="a/1")
    for _ in range(count):
        made.events.add(event_id=str(uuid.uuid4()), type="t.A", payload=bytes(size))
    return made


async def test_a_reader_who_stops_reading_misses_nothing_and_holds_up_nobody(tmp_path: Path) -> None:
    async with (
        start("lineage", Settings(port=0, data_dir=tmp_path), build) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub: Any = LineageServiceStub(channel)
        slow = stub.Subscribe(SubscribeRequest())
        assert (await slow.read()).examined_position == 0
        # 20 MB: far more than the windows of HTTP/2 and the log's tail in memory hold.
        for _ in range(20):
            await stub.AppendEvents(request(100, 10_000))
        quick = stub.Subscribe(SubscribeRequest(after_position=1999))
        assert (await quick.read()).examined_position == 2000
        quick.cancel()
        seen: list[int] = []
        while len(seen) < 2000:
            response = await slow.read()
            seen += [EventRecord.FromString(stored.record).position for stored in response.records]
        slow.cancel()
        assert seen == list(range(1, 2001))


async def test_a_lost_database_ends_the_service_and_a_new_one_goes_on(tmp_path: Path, postgres_url: str) -> None:
    settings = Settings(port=0, data_dir=tmp_path, database_url=postgres_url)
    repeated = request()
    async with (
        start("lineage", settings, build) as running,
        grpc.aio.insecure_channel(running.address) as channel,
        asyncio.timeout(20),
    ):
        stub: Any = LineageServiceStub(channel)
        await stub.AppendEvents(repeated)
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.AppendEvents(request())
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        await running.failed
    async with start("lineage", settings, build) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = LineageServiceStub(channel)
        assert (await stub.AppendEvents(repeated)).repeated_request
        assert (await stub.AppendEvents(request())).position == 2


async def test_a_full_disk_is_refused_and_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SqliteWriter.commit

    def full(self: SqliteWriter, records: Sequence[Stored], nodes: Sequence[Any]) -> None:
        # The file may not grow, whatever the disk says.
        self._raw.execute("PRAGMA max_page_count=1")
        commit(self, records, nodes)

    async with (
        start("lineage", Settings(port=0, data_dir=tmp_path), build) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub: Any = LineageServiceStub(channel)
        await stub.AppendEvents(request())
        with monkeypatch.context() as patched:
            patched.setattr(SqliteWriter, "commit", full)
            refused = request(10, 10_000)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.AppendEvents(refused)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await stub.GetHead(GetHeadRequest())).position == 1
        with sqlite3.connect(tmp_path / "lineage" / "lineage.db") as connection:
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)
        connection.close()
        assert not running.failed.done()


async def test_a_disk_that_fails_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        start("lineage", Settings(port=0, data_dir=tmp_path), build) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub: Any = LineageServiceStub(channel)
        await stub.AppendEvents(request())

        def broken(self: SqliteWriter, records: Sequence[Stored], nodes: Sequence[Any]) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(SqliteWriter, "commit", broken)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.AppendEvents(request())
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "disk I/O error" in str(await running.failed)
