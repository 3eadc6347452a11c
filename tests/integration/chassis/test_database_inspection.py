"""What `lineal doctor` is told of databases, by the connections that write to them."""

import sqlite3
from pathlib import Path

import grpc.aio
import pytest
from sqlalchemy import create_engine

from chassis import database_inspection
from chassis.database_inspection import Inspection, filesystem_of, inspect_database
from chassis.databases import open_database
from chassis.server import start
from lineal.api.lineage.v1 import projection_service_pb2 as api
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceStub
from services.lineage.server import build
from services.lineage.settings import Settings

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/with\\040space rw - nfs4 files:/data rw
31 22 0:41 / /mnt rw - xfs /dev/sdb rw
32 22 8:2 / /over rw - ext4 /dev/sdc rw
33 32 0:42 / /over rw - fuse.sshfs far:/ rw
"""


def inspected(path: Path, *pragmas: str, needs: str = "FULL") -> Inspection:
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            for pragma in pragmas:
                connection.exec_driver_sql(f"PRAGMA {pragma}")
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x)")
            connection.commit()
            return inspect_database("t", connection, needs)
    finally:
        engine.dispose()


async def test_lineage_tells_how_its_own_connections_keep_the_log(tmp_path: Path) -> None:
    async with (
        start("lineage", Settings(data_dir=tmp_path, port=0, checkpoint_seconds=3600), build) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        asked = await ProjectionServiceStub(channel).InspectDatabases(api.InspectDatabasesRequest())
    log, graph = asked.databases
    assert (log.name, dict(log.settings), list(log.faults)) == (
        "log",
        {"journal_mode": "wal", "synchronous": "FULL"},
        [],
    )
    assert log.engine == f"SQLite {sqlite3.sqlite_version}"
    assert log.filesystem
    assert log.database_bytes
    assert (graph.settings["synchronous"], list(graph.faults)) == ("NORMAL", [])


def test_what_can_lose_commits_is_a_fault(tmp_path: Path) -> None:
    found = inspected(tmp_path / "a.db", "journal_mode=DELETE", "synchronous=NORMAL")
    assert [fault.split(":")[0] for fault in found.faults] == [
        "its journal is delete, not wal",
        "synchronous is NORMAL, not FULL",
    ]
    assert inspected(tmp_path / "b.db", "journal_mode=WAL", "synchronous=NORMAL", needs="NORMAL").faults == []


def test_a_log_that_no_checkpoint_resets_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_inspection, "_MOST_WAL_BYTES", 1024 * 1024)
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}", synchronous="FULL")
    try:
        with database.writer.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (x)")
        with database.reader.connect() as reader:
            # A reader that never ends: what is written behind it cannot be taken over into the file.
            reader.exec_driver_sql("SELECT count(*) FROM t").fetchall()
            for _ in range(3):
                with database.writer.begin() as connection:
                    connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(2000000))")
            with database.writer.connect() as connection:
                [fault] = inspect_database("t", connection, "FULL").faults
    finally:
        database.close()
    assert fault.startswith("its write-ahead log has grown to 5 MiB")


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    paths = ["/data/a.db", "/mnt/a.db", "/mnt/with space/a.db", "/over/a.db", "/overt/a.db"]
    assert [filesystem_of(Path(path), mounts) for path in paths] == ["ext4", "xfs", "nfs4", "fuse.sshfs", "ext4"]
    assert filesystem_of(tmp_path, tmp_path / "missing") == ""


def test_a_network_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_inspection, "filesystem_of", lambda _: "nfs4")
    [fault] = inspected(tmp_path / "a.db", "journal_mode=WAL", "synchronous=FULL").faults
    assert "a network's file system (nfs4)" in fault


@pytest.mark.parametrize(
    ("version", "sound"),
    [((3, 40, 1), False), ((3, 44, 6), True), ((3, 50, 6), False), ((3, 50, 7), True), ((3, 51, 3), True)],
)
def test_which_versions_are_sound(version: tuple[int, int, int], sound: bool) -> None:
    assert database_inspection._sound(version) is sound
