import multiprocessing
from pathlib import Path

import pytest
from dask import distributed

from lineal.api.features.v1 import features_service_pb2 as api
from tests.integration.features.conftest import running_world
from tests.integration.features.world import World, at, ends, random_trips, trips
from tests.unit.tabular.declarations import feature_set, view


async def filled(world: World) -> dict[str, str]:
    started, ended = random_trips(seed=4, count=60)
    await world.declare(trips(), ends(), view(), feature_set())
    await world.send(trips(), started)
    await world.send(ends(), ended)
    return await world.snapshots("trips", "ends")


@pytest.mark.timeout(120)
async def test_a_worker_killed_between_training_sets_is_replaced(world: World) -> None:
    snapshots = await filled(world)
    first = await world.build("late", snapshots)
    assert {r.stage for r in first if r.steps} >= {"rows and labels", "features", "training set"}
    # Dask's nanny starts workers through multiprocessing, so they are children of this process.
    workers = [child for child in multiprocessing.active_children() if "Dask Worker" in child.name]
    assert workers
    for worker in workers:
        worker.kill()
    second = await world.build("late", snapshots, end_time=at(300))
    assert 0 < second[-1].training_set.rows < first[-1].training_set.rows


@pytest.mark.timeout(120)
async def test_a_scheduler_elsewhere_builds_the_same_training_set(tmp_path: Path) -> None:
    async with running_world(tmp_path / "own") as world:
        own = await world.build("late", await filled(world))
    async with (
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", asynchronous=True
        ) as elsewhere,
        running_world(tmp_path / "remote", dask_scheduler=elsewhere.scheduler_address) as world,
    ):
        there = await world.build("late", await filled(world))
        request = api.GetTrainingSetRequest(digest=there[-1].training_set.digest)
        assert (await world.features.GetTrainingSet(request)).training_set.rows == own[-1].training_set.rows
