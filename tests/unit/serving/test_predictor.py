import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pytest
from opentelemetry import trace

from chassis.clock import SystemClock
from chassis.context import deadline_in, time_left
from chassis.errors import DeadlinePassed
from chassis.ids import new_request_id
from chassis.memory_artifacts import InMemoryArtifactStore
from chassis.memory_log import InMemoryLog
from lineal.api.monitor.v1.monitor_service_pb2 import RecordPredictionsRequest
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint, Fallback
from lineal.api.registry.v1.events_pb2 import ArmsChanged, BundleRegistered, EndpointRegistered, GatesEvaluated
from services.serving.arms import ArmTable
from services.serving.lease import LeaseKeeper
from services.serving.limiter import Limiter
from services.serving.loader import Loader
from services.serving.lookups import LookedUp, Lookups
from services.serving.metrics import prediction_durations
from services.serving.predictor import Predictor
from services.serving.recorder import Recorder
from services.serving.request import Request, make
from services.serving.scorers import Scorers
from services.serving.signatures import Signatures
from services.serving.spool import Spool
from tabular.bundle import Bundle, ModelColumn
from tabular.scorer import Scorer, Scores
from tabular.vectors import Vectors

DIGEST = "b" * 64
pytestmark = pytest.mark.timeout(60)


class Counting(Scorer):
    """A scorer that counts its calls."""

    calls = 0

    def score(self, vectors: Vectors) -> Scores:
        self.calls += 1
        return super().score(vectors)


class Ready(Loader):
    """A loader of the one bundle."""

    def __init__(self, artifacts: Any, scorer: Scorer) -> None:
        super().__init__(artifacts, Signatures(artifacts))
        self.scorer = scorer

    async def load(self, digest: str) -> Scorer:
        return self.scorer


class Held(LeaseKeeper):
    """A lease that lasts."""

    def __init__(self) -> None:
        pass

    @property
    def valid(self) -> bool:
        return True


class Late(Lookups):
    """Features that come when the deadline of the request has passed, if it has one."""

    def __init__(self) -> None:
        pass

    async def get(self, *_: Any) -> LookedUp:
        while time_left():
            await asyncio.sleep(0.01)  # until the deadline
        return LookedUp({"amount": np.array([0.5])})


async def _send(batch: RecordPredictionsRequest) -> int:
    return sum(len(each.scores) for each in batch.request_records)


@pytest.fixture
def scorer() -> Counting:
    rows = np.linspace(-1, 1, 50).reshape(-1, 1)
    model = catboost.CatBoostClassifier(iterations=2, thread_count=1, verbose=False, allow_writing_files=False)
    model.fit(catboost.Pool(rows, (rows[:, 0] > 0).astype(int), feature_names=["amount"]))
    columns = (ModelColumn("amount", "numeric", "view"),)
    bundle = Bundle("m", "binary", columns, {}, entity_columns=("shop",), feature_set="f", feature_set_version="1")
    return Counting(bundle, bytes(model._serialize_model()))


@pytest.fixture
async def predictor(scorer: Counting, tmp_path: Path) -> AsyncIterator[Predictor]:
    log, applied = InMemoryLog(), asyncio.Event()

    async def tell() -> None:
        applied.set()

    scorers = Scorers(Ready(InMemoryArtifactStore(), scorer), 1)
    arms = ArmTable(log, scorers, Signatures(InMemoryArtifactStore()), tell)
    fallback = Fallback(score=1.0, reason="safe")
    fallback.lookup_timeout.FromSeconds(1)
    events = (
        EndpointRegistered(endpoint=Endpoint(name="shop", model="m", fallback=fallback)),
        BundleRegistered(bundle_digest=DIGEST, model="m"),
        GatesEvaluated(bundle_digest=DIGEST, passed=True, evaluation_digest="e"),
        ArmsChanged(endpoint="shop", generation=1, arms=[Arm(bundle_digest=DIGEST, role=ArmRole.ARM_ROLE_CHAMPION)]),
    )
    await log.append("endpoint/shop", events, request_id=new_request_id(), expected_revision=None)
    running = asyncio.create_task(arms.run())
    await applied.wait()
    recorder = Recorder("replica", Spool(tmp_path, max_bytes=1 << 20), _send)
    yield Predictor(
        arms,
        scorers,
        Late(),
        recorder,
        Held(),
        Limiter(lambda: 0.0),
        SystemClock(),
        trace.NoOpTracer(),
        prediction_durations(),
    )
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def request() -> Request:
    shop = {"shop": np.array(["a"], dtype=object)}
    now = SystemClock().now()
    return make(endpoint="shop", request_id="", routing_key="", columns=shop, event_time_micros=[], now=now)


async def test_a_request_whose_deadline_has_passed_is_not_begun(predictor: Predictor, scorer: Counting) -> None:
    with deadline_in(0.0), pytest.raises(DeadlinePassed):
        await predictor.predict(request())
    assert scorer.calls == 0


async def test_a_deadline_that_passes_while_features_come_leaves_them_unscored(
    predictor: Predictor, scorer: Counting
) -> None:
    # Neither is there a fallback for it: nobody waits for that one either.
    with deadline_in(0.05), pytest.raises(DeadlinePassed):
        await predictor.predict(request())
    assert scorer.calls == 0


async def test_without_a_deadline_features_that_come_are_scored(predictor: Predictor, scorer: Counting) -> None:
    answer = await predictor.predict(request())
    assert (answer.response.arm, scorer.calls) == ("champion", 1)
