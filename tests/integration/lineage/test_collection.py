"""Artifacts that nothing names are deleted, and never one that something names."""

import json
import os
import random
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc.aio
import pytest

from chassis.artifacts import LocalArtifactStore, canonical_json
from chassis.clock import SystemClock
from chassis.errors import ArtifactCorrupt, LinealError
from chassis.ids import new_request_id
from lineal.api.ingest.v1.events_pb2 import SnapshotCreated
from lineal.api.lineage.v1.keeping_service_pb2 import CollectArtifactsRequest
from lineal.api.lineage.v1.keeping_service_pb2_grpc import KeepingServiceStub
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest
from services.lineage.appender import Appender, checked
from services.lineage.collection import CannotTellNamed, Collection
from services.lineage.sealing import write_range
from services.lineage.store import EventStore
from services.lineage.tree import Tree
from tests.integration.lineage.test_log_commands import lineal
from tests.integration.running import Suite

SEEDS = int(os.environ.get("LINEAL_TEST_COLLECTIONS", "12"))
RACES = int(os.environ.get("LINEAL_TEST_COLLECTION_RACES", "200"))
DAY = timedelta(days=1)


class World:
    """A log on SQLite and the artifacts that it names, most of them old."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "artifacts"
        self.artifacts = LocalArtifactStore(self._folder)
        self.database = folder / "log.db"
        self.store = EventStore(f"sqlite:///{self.database}", self.artifacts)
        self.writer = self.store.open_writer()
        self._appender = Appender(self.writer, SystemClock(), Tree(self.store))

    def put(self, data: bytes, *, old: bool = True) -> str:
        digest = self.artifacts.put(data)
        if old:
            os.utime(self.artifacts.path(digest), (0, 0))
        return digest

    def name(self, digest: str) -> None:
        request = AppendEventsRequest(request_id=str(uuid.uuid4()), stream="dataset/flights")
        event = SnapshotCreated(dataset="flights", snapshot_digest=digest)
        request.events.add(
            event_id=str(uuid.uuid4()), type=event.DESCRIPTOR.full_name, payload=event.SerializeToString()
        )
        ((answer,), *_) = self._appender.append([checked(request, "", 1_000_000)])
        assert not isinstance(answer, LinealError)

    def seal(self) -> str:
        """Seal all events and return the file's digest, an old one."""
        sealed = write_range(self.store, self.artifacts, 1, self.store.head(), 0)
        self.writer.seal(sealed)
        os.utime(self.artifacts.path(sealed.digest), (0, 0))
        return sealed.digest

    def collection(self, *, delete: bool = True) -> Collection:
        return Collection(self.store, self.artifacts, self.store.head, datetime.now(UTC) - DAY, delete=delete)

    def collected(self, *, delete: bool = True) -> set[str]:
        return {each.digest for progress in self.collection(delete=delete).run() for each in progress.unnamed}

    def leave(self, name: str) -> Path:
        """Leave something behind, long ago."""
        path = self._folder / name
        path.mkdir(parents=True)
        os.utime(path, (0, 0))
        return path

    def there(self) -> set[str]:
        return {each.digest for each in self.artifacts.listed()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.writer.close()
    found.store.close()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_named_is_never_deleted(world: World, seed: int) -> None:
    rng = random.Random(seed)
    data = {f"{seed} {n}".encode() for n in range(rng.randrange(20, 60))}
    below: dict[str, set[str]] = {world.put(each, old=rng.random() < 0.8): set() for each in sorted(data)}
    for n in range(rng.randrange(10)):
        files = rng.sample(sorted(below), rng.randrange(1, 5))
        manifest = canonical_json({"n": n, "seed": seed, "files": [{"digest": each} for each in files]})
        below[world.put(manifest, old=rng.random() < 0.8)] = set(files).union(*(below[each] for each in files))
    named: set[str] = set()

    def name(digest: str) -> None:
        world.name(digest)
        named.update({digest}, below[digest])

    for digest in rng.sample(sorted(below), rng.randrange(1, 12)):
        name(digest)
    if seed % 3 == 0:
        named.add(world.seal())
    young = {each.digest for each in world.artifacts.listed() if each.time.year > 2000}
    left = sorted(set(below) - named)
    found, stages = set(), []
    for progress in world.collection().run():
        stages.append(progress.stage)
        found |= {each.digest for each in progress.unnamed}
        if left and rng.random() < 0.3:
            # What somebody puts again and names while the collection runs. Its manifest's files are put before it.
            digest = rng.choice(left)
            if {digest, *below[digest]} <= world.there():
                for each in (*below[digest], digest):
                    world.artifacts.put(world.artifacts.read(each))
                    young.add(each)
                name(digest)
    assert stages[-1] == "leftovers"
    assert not found & (named | young)
    assert found == (set(below) - named - young)
    assert world.there() == (set(below) | named) - found
    for digest in named:
        world.artifacts.verify(digest)


def test_what_is_named_after_it_was_listed_stays(world: World) -> None:
    manifest = world.put(canonical_json({"file": (file := world.put(b"rows"))}))
    unnamed = world.put(b"nothing names this")
    world.name(world.put(b"something"))
    heads: list[int] = []

    def head() -> int:
        if heads:
            world.name(manifest)
        heads.append(world.store.head())
        return heads[-1]

    run = Collection(world.store, world.artifacts, head, datetime.now(UTC) - DAY, delete=True).run()
    assert [each.digest for progress in run for each in progress.unnamed] == [unnamed]
    assert {file, manifest} <= world.there()
    assert heads == [1, 2]


def test_listing_deletes_nothing(world: World) -> None:
    unnamed = world.put(b"rows")
    assert world.collected(delete=False) == {unnamed}
    assert world.collected() == {unnamed}
    assert world.collected() == set()


@pytest.mark.parametrize("damage", ["artifact changed", "artifact missing", "event changed", "sealed file missing"])
def test_nothing_is_deleted_when_it_cannot_be_told_what_is_named(world: World, damage: str) -> None:
    named, unnamed = world.put(b"rows"), world.put(b"nothing names this")
    world.name(named)
    file = world.artifacts.path(named)
    match damage:
        case "artifact changed":
            file.write_bytes(b"wors")
        case "artifact missing":
            file.unlink()
        case "sealed file missing":
            world.artifacts.path(world.seal()).unlink()
        case _:
            with closing(sqlite3.connect(world.database)) as database, database:
                database.execute("UPDATE events SET record = ?", (b"something else",))
    left = world.leave("builds/given-up")
    with pytest.raises((CannotTellNamed, ArtifactCorrupt)):
        world.collected()
    assert world.artifacts.exists(unnamed)
    assert left.exists()


def test_what_is_put_again_while_it_is_removed_is_there(tmp_path: Path) -> None:
    store, done = LocalArtifactStore(tmp_path), threading.Event()
    digest = store.put(b"rows")
    removed = 0

    def remove() -> None:
        nonlocal removed
        while not done.is_set():
            removed += store.remove(digest, datetime.now(UTC) - DAY)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(RACES):
            os.utime(store.path(digest), (0, 0))
            store.put(b"rows")
            assert store.exists(digest)
    finally:
        done.set()
        remover.join()


async def test_the_command_counts_and_deletes(suite: Suite) -> None:
    await suite.start("lineage")
    named, old, young = (suite.artifacts.put(data) for data in (b"named", b"old", b"young"))
    for digest in (named, old):
        os.utime(suite.artifacts.path(digest), (0, 0))
    event = SnapshotCreated(dataset="flights", snapshot_digest=named)
    log = suite.servers["lineage"].harness.log
    await log.append("dataset/flights", [event], request_id=new_request_id(), expected_revision=None)
    given_up, under_way = (suite.artifacts.path(named).parents[1] / "builds" / name for name in ("1", "2"))
    for folder in (given_up, under_way):
        folder.mkdir(parents=True)
    os.utime(given_up, (0, 0))
    shown = await lineal(suite, "collect")
    assert "1 artifacts are named by nothing" in shown
    assert "left behind" in shown
    assert suite.artifacts.exists(old)
    assert given_up.exists()
    found, left = json.loads(await lineal(suite, "collect", "--older-than", "7d", "--delete", "--json"))
    assert (found["digest"], found["bytes"]) == (old, "3")
    assert left["name"] == "builds/1"
    assert [suite.artifacts.exists(each) for each in (named, old, young)] == [True, False, True]
    assert (given_up.exists(), under_way.exists()) == (False, True)


async def test_an_age_under_an_hour_is_refused(suite: Suite) -> None:
    await suite.start("lineage")
    request = CollectArtifactsRequest(delete=True)
    request.older_than.FromTimedelta(timedelta(minutes=59))
    async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await KeepingServiceStub(channel).CollectArtifacts(request).read()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_object_store_is_refused(suite: Suite, tmp_path: Path) -> None:
    await suite.start("lineage", artifacts_url=f"file://{tmp_path}/remote")
    async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="object store") as refused:
            await KeepingServiceStub(channel).CollectArtifacts(CollectArtifactsRequest()).read()
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
