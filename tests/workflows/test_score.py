"""Rows scored at once: a snapshot's as Predict scores them, past predictions anew, and on from where a kill left it."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest

from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.serving.v1 import scoring_service_pb2 as api
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.serving.v1.scoring_pb2 import PastPredictions, Scoring, ScoringState, SnapshotRows
from lineal.client import connect
from services.serving import sources
from tabular.columns import from_table
from tests.workflows.world import ORDERS, RESULTS, World, draw, rid

pytestmark = pytest.mark.timeout(180)
START = datetime(2024, 1, 1, tzinfo=UTC)
BATCHES, BATCH_ROWS = 4, 40


class Shop:
    """A shop whose orders are scored at once, too."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scorings: Any = world.suite.stub("serving", within="scoring")

    async def orders(self) -> str:
        """Take orders, some with nulls, and return the digest of their snapshot."""
        for batch in range(BATCHES):
            amount, shop, _ = draw(BATCH_ROWS, batch)
            rows = [
                {"id": f"{batch}-{n}", "amount": None if n % 9 == 0 else amount[n], "shop": shop[n], "at": START}
                for n in range(BATCH_ROWS)
            ]
            rows[5]["shop"] = None
            await self.world.send(ORDERS, rows)
        request = ingest_api.CreateSnapshotRequest(request_id=rid(), dataset="orders")
        digest: str = (await self.world.ingest.CreateSnapshot(request)).snapshot.digest
        return digest

    async def asked(self, bundle: str, **source: Any) -> str:
        request = api.RequestScoringRequest(request_id=rid(), bundle_digest=bundle, **source)
        scoring_id: str = (await self.scorings.RequestScoring(request)).scoring_id
        return scoring_id

    async def ended(self, scoring_id: str) -> Scoring:
        """Return a scoring once it has ended."""
        seen: Scoring = Scoring()
        try:
            async with asyncio.timeout(90):
                while True:
                    seen = (await self.scorings.GetScoring(api.GetScoringRequest(scoring_id=scoring_id))).scoring
                    if seen.state != ScoringState.SCORING_STATE_RUNNING:
                        return seen
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"the scoring has not ended: {seen}") from None

    async def rows(self, scoring_id: str) -> pd.DataFrame:
        request = api.ReadScoringRequest(scoring_id=scoring_id)
        pieces = [piece.arrow async for piece in self.scorings.ReadScoring(request)]
        frame: pd.DataFrame = pa.ipc.open_stream(b"".join(pieces)).read_all().to_pandas()
        return frame

    async def predicted(self, table: pa.Table) -> serving_api.PredictResponse:
        """Return what Predict says of rows of the snapshot."""
        request = serving_api.PredictRequest(
            endpoint=self.world.endpoint, request_id=rid(), columns=from_table(table.select(["amount", "shop"]))
        )
        answer: serving_api.PredictResponse = await self.world.serving.Predict(request)
        return answer

    async def table(self, snapshot: str) -> pa.Table:
        request = ingest_api.ReadSnapshotRequest(digest=snapshot)
        pieces = [piece.arrow async for piece in self.world.ingest.ReadSnapshot(request)]
        return pa.ipc.open_stream(b"".join(pieces)).read_all()

    async def sealed(self, count: int) -> None:
        """Return once so many predictions are sealed."""
        async with asyncio.timeout(60):
            while True:
                counters = await self.world.suite.stub("monitor").GetCounters(
                    monitor_api.GetCountersRequest(endpoint=self.world.endpoint)
                )
                if counters.endpoints and counters.endpoints[0].recorded >= count:
                    break
                await asyncio.sleep(0.05)
        request = monitor_api.ExaminePeriodsRequest(request_id=rid(), endpoint=self.world.endpoint)
        await self.world.suite.stub("monitor").ExaminePeriods(request)


@pytest.fixture
def store(shop: World) -> Shop:
    return Shop(shop)


async def test_rows_at_once_score_as_predictions_do(store: Shop, tmp_path: Path) -> None:
    first, second = await store.world.bundle(1), await store.world.bundle(2, harmful=True)
    await store.world.set_champion(first)
    snapshot = await store.orders()
    asked = SnapshotRows(dataset="orders", snapshot_digest=snapshot)
    async with store.world.workflows():
        scoring_id = await store.asked(first, snapshot=asked)
        scoring = await store.ended(scoring_id)
        assert scoring.state == ScoringState.SCORING_STATE_COMPLETED, scoring.failure
        assert scoring.result.rows == BATCHES * BATCH_ROWS
        table = await store.table(snapshot)
        answer = await store.predicted(table)
        rows = await store.rows(scoring_id)
        with connect(store.world.suite.profile) as client:
            await asyncio.to_thread(client.scorings.write, scoring_id, tmp_path / "scores.parquet")
        pd.testing.assert_frame_equal(_only_file(tmp_path), rows)
        assert rows["id"].tolist() == table["id"].to_pylist()
        # Bit for bit.
        assert rows["score"].tolist() == list(answer.scores)
        assert rows["decision"].tolist() == list(answer.decisions)
        assert scoring.result.positive_decisions == sum(answer.decisions)
        again = await store.ended(await store.asked(first, snapshot=asked))
        assert again.result == scoring.result

        await store.sealed(BATCHES * BATCH_ROWS)
        past = PastPredictions(endpoint=store.world.endpoint)
        scoring_id = await store.asked(second, predictions=past)
        scoring = await store.ended(scoring_id)
        assert scoring.state == ScoringState.SCORING_STATE_COMPLETED, scoring.failure
        await store.world.set_champion(second)
        other = await store.predicted(table)
        rows = (await store.rows(scoring_id)).set_index("prediction_id").loc[list(answer.prediction_ids)]
        assert rows["old_score"].tolist() == list(answer.scores)
        assert rows["score"].tolist() == list(other.scores)
        assert rows["decision"].tolist() == list(other.decisions)
        found = scoring.result.comparison
        flips = np.array(answer.decisions) != np.array(other.decisions)
        assert (found.flips, found.without_vector) == (flips.sum(), 0)
        assert found.flips_from_zero + found.flips_to_zero == found.flips
        assert found.mean_shift == pytest.approx(np.mean(other.scores) - np.mean(answer.scores))
        await _mistakes_are_named(store, first, asked)


async def _mistakes_are_named(store: Shop, bundle: str, asked: SnapshotRows) -> None:
    labels = ingest_api.CreateSnapshotRequest(request_id=rid(), dataset="results")
    other = (await store.world.ingest.CreateSnapshot(labels)).snapshot.digest
    later = SnapshotRows(dataset="orders", snapshot_digest=asked.snapshot_digest)
    later.start_time.FromDatetime(START)
    for given, source, code, words in (
        ("0" * 64, {"snapshot": asked}, "NOT_FOUND", "there is no bundle"),
        (asked.snapshot_digest, {"snapshot": asked}, "INVALID_ARGUMENT", "manifest of a bundle"),
        (bundle, {}, "INVALID_ARGUMENT", "nothing is named"),
        (bundle, {"snapshot": later}, "INVALID_ARGUMENT", "no cut-offs"),
        (bundle, {"snapshot": SnapshotRows(dataset="orders", snapshot_digest="1" * 64)}, "NOT_FOUND", "no snapshot"),
        (bundle, {"snapshot": SnapshotRows(dataset="orders", snapshot_digest=other)}, "INVALID_ARGUMENT", "'results'"),
        (
            bundle,
            {"snapshot": SnapshotRows(dataset=RESULTS.name, snapshot_digest=other)},
            "INVALID_ARGUMENT",
            "lack columns of the bundle: amount, shop",
        ),
        (bundle, {"predictions": PastPredictions(endpoint="nobody")}, "NOT_FOUND", "'nobody' is unknown"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=words) as refused:
            await store.asked(given, **source)
        assert refused.value.code().name == code


async def test_parts_that_were_scored_before_a_kill_are_not_scored_again(
    store: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_ROWS_PER_PART", BATCH_ROWS)
    bundle = await store.world.bundle(1)
    digest = await store.orders()
    snapshot = SnapshotRows(dataset="orders", snapshot_digest=digest)
    scoring_id = await store.asked(bundle, snapshot=snapshot)
    run = api.RunScoringRequest(request_id=rid(), scoring_id=scoring_id)
    artifacts = store.world.suite.artifacts
    last = artifacts.path(json.loads(artifacts.read(digest))["files"][-1]["digest"])
    with _unreadable(last), pytest.raises(grpc.aio.AioRpcError):
        await _killed(store, run)
    journal = store.world.suite.folder / "serving" / "scorings" / f"{scoring_id}.jsonl"
    assert await asyncio.to_thread(_parts, journal) == BATCHES - 1
    seen = [progress.scoring async for progress in store.scorings.RunScoring(run)]
    assert (seen[0].done, seen[0].total) == (BATCHES - 1, BATCHES)
    assert seen[-1].result.rows == BATCHES * BATCH_ROWS
    assert not await asyncio.to_thread(journal.exists)
    whole = api.RunScoringRequest(request_id=rid(), scoring_id=await store.asked(bundle, snapshot=snapshot))
    calm = [progress.scoring async for progress in store.scorings.RunScoring(whole)]
    assert calm[-1].result == seen[-1].result


def _only_file(folder: Path) -> pd.DataFrame:
    """Return the copy of a result, beside which nothing of the copying is left."""
    assert [path.name for path in folder.glob("*scores*")] == ["scores.parquet"]
    return pd.read_parquet(folder / "scores.parquet")


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """Let whoever reads a file wait: the part that needs it is not done when the others are."""
    kept = path.with_name("kept")
    path.rename(kept)
    os.mkfifo(path)
    try:
        yield
    finally:
        path.unlink()
        kept.rename(path)


async def _killed(store: Shop, run: api.RunScoringRequest) -> None:
    """Kill the process that scores once all parts but one are done."""
    async for progress in store.scorings.RunScoring(run):
        if progress.scoring.done == BATCHES - 1:
            (job,) = (child for child in psutil.Process().children() if "services.serving.batch" in child.cmdline())
            job.send_signal(signal.SIGKILL)


def _parts(journal: Path) -> int:
    return len(journal.read_text(encoding="utf-8").splitlines()) - 1
