import os
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chassis.artifacts import LocalArtifactStore
from chassis.cluster import Stop, WorkCancelled
from services.features import compute
from services.features.compute import Compute
from services.features.steps import Built
from tests.integration.features.building import planned, settings

KILLS = int(os.environ.get("LINEAL_TEST_KILLS", "2"))
ROWS = 2_000

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Compute]]:
    folder = tmp_path_factory.mktemp("build")
    found = Compute(settings(folder))
    yield folder, found
    found.cluster.close()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a small build as a large one is cut."""
    for name, rows in (("LOAD", 500), ("SPINE_BUCKET", 400), ("BUCKET", 500), ("SLICE", 300)):
        monkeypatch.setattr(compute, f"_ROWS_PER_{name}", rows)


def table_of(folder: Path, built: Built) -> pa.Table:
    store = LocalArtifactStore(folder / "artifacts")
    return pa.concat_tables([pq.read_table(store.path(digest)) for digest, _ in built.files])


def ignore(stage: str, done: int, steps: int) -> None:
    del stage, done, steps


@pytest.mark.parametrize("corrected", [0, 300])
def test_buckets_and_slices_give_the_rows_of_one_task(
    cluster: tuple[Path, Compute], monkeypatch: pytest.MonkeyPatch, corrected: int
) -> None:
    folder, own = cluster
    plan = planned(folder, ROWS, corrected=corrected)
    whole = own.build(plan, ignore)
    monkeypatch.setattr(compute, "_ROWS_PER_LOAD", 500)
    monkeypatch.setattr(compute, "_ROWS_PER_SPINE_BUCKET", 400)
    monkeypatch.setattr(compute, "_ROWS_PER_BUCKET", 500)
    parted = own.build(plan, ignore)
    assert parted.label_mean == whole.label_mean
    one, other = table_of(folder, whole).to_pandas(), table_of(folder, parted).to_pandas()
    assert len(one) > ROWS / 2
    mean = "driver_delays_mean"
    assert other.drop(columns=mean).equals(one.drop(columns=mean))
    assert ((other[mean] - one[mean]).abs().fillna(0) <= 1e-12 * one[mean].abs().fillna(1)).all()
    assert not list((folder / "artifacts" / "builds").iterdir())


@pytest.mark.usefixtures("small_steps")
def test_killed_workers_change_no_byte(cluster: tuple[Path, Compute]) -> None:
    folder, own = cluster
    plan = planned(folder, ROWS)
    calm = own.build(plan, ignore)
    rng, killed = random.Random(3), 0

    def kill(stage: str, done: int, steps: int) -> None:
        nonlocal killed
        del stage
        if done and killed < KILLS and done * (KILLS + 1) > (killed + 1) * steps:
            os.kill(rng.choice(own.cluster.worker_pids()), 9)
            killed += 1

    assert own.build(plan, kill) == calm
    assert killed == KILLS


@pytest.mark.usefixtures("small_steps")
def test_a_cancelled_build_goes_on_where_it_was_left(cluster: tuple[Path, Compute]) -> None:
    folder, own = cluster
    plan = planned(folder, ROWS)
    calm = own.build(plan, ignore)
    stop, last = Stop(), [0]

    def hang_up(stage: str, done: int, steps: int) -> None:
        del steps
        last[0] = max(last[0], done)
        if stage == "features":
            stop.set()

    with pytest.raises(WorkCancelled):
        own.build(plan, hang_up, stop)
    heard: list[int] = []
    assert own.build(plan, lambda stage, done, steps: heard.append(done)) == calm
    assert min(done for done in heard if done) > last[0]


@pytest.mark.usefixtures("small_steps")
def test_a_build_that_goes_on_has_all_its_files_and_none_is_old(cluster: tuple[Path, Compute]) -> None:
    folder, own = cluster
    plan, store = planned(folder, ROWS), LocalArtifactStore(folder / "artifacts")
    calm = own.build(plan, ignore)
    finished = 0

    def fail_at_last(stage: str, done: int, steps: int) -> None:
        nonlocal finished
        del done, steps
        finished += stage == "training set"
        if finished == len(calm.files):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        own.build(plan, fail_at_last)
    for n, (digest, _) in enumerate(calm.files):
        os.utime(store.path(digest), (0, 0))
        if n % 2:
            assert store.remove(digest, datetime.now(UTC))
    assert own.build(plan, ignore) == calm
    for digest, _ in calm.files:
        assert not store.remove(digest, datetime.now(UTC) - timedelta(hours=1))
        store.verify(digest)


@pytest.mark.usefixtures("small_steps")
def test_one_build_waits_for_another_of_the_same(cluster: tuple[Path, Compute]) -> None:
    folder, own = cluster
    plan = planned(folder, ROWS)
    found: list[Built] = []
    threads = [threading.Thread(target=lambda: found.append(own.build(plan, ignore))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
