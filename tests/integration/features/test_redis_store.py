import asyncio
from pathlib import Path

import pyarrow as pa
import pytest
import redis
from google.protobuf.message import Message

from chassis.artifacts import LocalArtifactStore
from chassis.ids import new_request_id
from chassis.log import InMemoryLog
from chassis.memory_artifacts import InMemoryArtifactStore
from lineal.api.features.v1.events_pb2 import FeatureViewRegistered
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, DatasetRegistered
from services.features.redis_store import RedisOnlineStore, RedisStateLost
from tabular.definitions import version
from tabular.parquet import to_parquet
from tabular.schema import arrow_schema
from tests.integration.features.conftest import running_world
from tests.integration.features.world import at, ends, random_trips, trips, values
from tests.unit.tabular.declarations import feature_set, view


async def test_two_replicas_apply_each_event_once(redis_url: str, tmp_path: Path) -> None:
    log, artifacts = InMemoryLog(), LocalArtifactStore(tmp_path)
    registered = FeatureViewRegistered(feature_view=view(), version=version(view()))
    row = {"trip": "x", "driver": "ann", "delay": 1.0, "weather": "sun", "landed": at(0), "told": at(0)}
    digest = artifacts.put(to_parquet(pa.Table.from_pylist([row] * 5, schema=arrow_schema(ends()))))
    batches = [BatchAccepted(dataset="ends", batch_id=str(n), accepted_digest=digest) for n in range(60)]
    for event in (DatasetRegistered(dataset=ends(), schema_version=1), registered, *batches):
        await log.append("s", [event], request_id=new_request_id(), expected_revision=None)
    replicas = [RedisOnlineStore(redis_url, log, artifacts) for _ in range(2)]
    tasks = [asyncio.create_task(replica.run()) for replica in replicas]
    for replica in replicas:
        await replica.wait_for(await log.head())
    key = (registered.version, '["ann"]')
    found = replicas[0].signatures([key[0]], [key[1]])
    assert found == {key: (3, 300, found[key][2])}
    assert len(replicas[1].states([key])[key][1].splitlines()) == 300
    for task, replica in zip(tasks, replicas, strict=True):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await replica.close()


async def test_a_batch_so_long_that_its_own_beginning_is_forgotten(redis_url: str, tmp_path: Path) -> None:
    log, artifacts = InMemoryLog(), LocalArtifactStore(tmp_path)
    registered = FeatureViewRegistered(feature_view=view(), version=version(view()))
    rows = [
        {"trip": str(n), "driver": "ann", "delay": 1.0, "weather": "sun", "landed": at(n * 3600), "told": at(n * 3600)}
        for n in range(1000)
    ]
    events: list[Message] = [DatasetRegistered(dataset=ends(), schema_version=1), registered]
    for name, part in (("first", rows[:1]), ("rest", rows[1:])):
        digest = artifacts.put(to_parquet(pa.Table.from_pylist(part, schema=arrow_schema(ends()))))
        events.append(BatchAccepted(dataset="ends", batch_id=name, accepted_digest=digest))
    for event in events:
        await log.append("s", [event], request_id=new_request_id(), expected_revision=None)
    store = RedisOnlineStore(redis_url, log, artifacts)
    task = asyncio.create_task(store.run())
    waiting = asyncio.create_task(store.wait_for(await log.head()))
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    assert waiting.done()
    assert not task.done()
    key = (registered.version, '["ann"]')
    kept = store.states([key])[key]
    assert 0 < len(kept[1].splitlines()) < len(rows)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()


async def test_lost_state_is_noticed(redis_url: str) -> None:
    log = InMemoryLog()
    declared = DatasetRegistered(dataset=ends(), schema_version=1)
    await log.append("s", [declared], request_id=new_request_id(), expected_revision=None)
    store = RedisOnlineStore(redis_url, log, InMemoryArtifactStore())
    task = asyncio.create_task(store.run())
    await store.wait_for(1)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    await log.append("s", [declared], request_id=new_request_id(), expected_revision=None)
    with pytest.raises(RedisStateLost, match="was at 1"):
        await task
    await store.close()


async def test_state_outlives_the_service(redis_url: str, tmp_path: Path) -> None:
    _, ended = random_trips(seed=5, count=60)
    async with running_world(tmp_path, redis_url=redis_url) as world:
        await world.declare(trips(), ends(), view(), feature_set())
        position = await world.send(ends(), ended[:30])
        before = await world.online("late", {"driver": ["ann"]}, [at(900)], position)
    async with running_world(tmp_path, redis_url=redis_url) as world:
        again = await world.online("late", {"driver": ["ann"]}, [at(900)], position)
        assert [values(c) for c in again.columns] == [values(c) for c in before.columns]
        position = await world.send(ends(), ended[30:])
        assert (await world.online("late", {"driver": ["ann"]}, [at(900)], position)).position >= position
