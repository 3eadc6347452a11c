"""A shop whose orders are paid or not: its models, its endpoint, and clients that predict and tell what came of it."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import catboost
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.text_format import Parse
from temporalio.client import Client

from chassis.server import start
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint, Saga, SagaState
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.profile import Profile
from tabular.columns import from_numpy
from tabular.schema import arrow_schema
from tests.integration.running import Suite
from workflows.server import build
from workflows.settings import Settings

HISTORIES = Path(__file__).parent / "histories"
_RECORD = "LINEAL_RECORD_HISTORIES"
_ENDED = (SagaState.SAGA_STATE_COMPLETED, SagaState.SAGA_STATE_COMPENSATED)

ORDERS = Parse(
    """
    name: "orders"
    fields { name: "id" type: FIELD_TYPE_STRING }
    fields { name: "amount" type: FIELD_TYPE_FLOAT64 nullable: true }
    fields { name: "shop" type: FIELD_TYPE_STRING nullable: true }
    fields { name: "at" type: FIELD_TYPE_TIMESTAMP }
    row_key: "id" event_time: "at"
    """,
    Dataset(),
)
RESULTS = Parse(
    """
    name: "results"
    fields { name: "id" type: FIELD_TYPE_STRING }
    fields { name: "unpaid" type: FIELD_TYPE_FLOAT64 }
    fields { name: "at" type: FIELD_TYPE_TIMESTAMP }
    row_key: "id" event_time: "at"
    """,
    Dataset(),
)
FEATURES = Parse(
    """
    name: "order"
    spine { dataset: "orders" }
    request_features { column: "amount" }
    request_features { column: "shop" }
    label { dataset: "results" key: "id" column: "unpaid" greater_than: 0.5 }
    """,
    FeatureSet(),
)


def rid() -> str:
    return str(uuid4())


def draw(rows: int, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Make amounts, shops and what came of the orders."""
    generator = np.random.default_rng(seed)
    amount, shop = generator.normal(size=rows), generator.choice(["a", "b"], rows)
    unpaid = generator.random(rows) < 1 / (1 + np.exp(-4 * amount - (shop == "b")))
    return amount, shop.astype(object), unpaid.astype(float)


def model_file(seed: int, *, harmful: bool) -> bytes:
    amount, shop, unpaid = draw(600, seed)
    label = 1 - unpaid if harmful else unpaid
    pool = catboost.Pool(
        [[a, s] for a, s in zip(amount, shop, strict=True)],
        label.astype(int),
        cat_features=[1],
        feature_names=["amount", "shop"],
    )
    model = catboost.CatBoostClassifier(
        iterations=20, random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False
    )
    model.fit(pool)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cbm"
        model.save_model(str(path))
        return path.read_bytes()


class World:
    """The services, the workflows on a Temporal server, and one endpoint."""

    def __init__(self, suite: Suite, temporal: str) -> None:
        self.suite = suite
        self.temporal = temporal
        # Tests share the server but not each other's schedules and workers.
        self.endpoint = f"shop-{uuid4().hex[:8]}"
        self.queue = f"queue-{self.endpoint}"
        self.profile = suite.folder / "profile-workflows.yaml"

    async def begin(self, *services: str, **policy: Any) -> None:
        """Start the services and declare model and endpoint; `policy` is of the release."""
        await self.suite.start(*services)
        addresses = {name: self.suite.address(name) for name in services}
        Profile(addresses | {"temporal": self.temporal}).save(self.profile)
        self.client = await Client.connect(self.temporal)
        self.registry, self.ingest, self.trainer, self.serving = (
            self.suite.stub(name) for name in ("registry", "ingest", "trainer", "serving")
        )
        self.log = self.suite.servers["ingest"].harness.log
        for dataset in (ORDERS, RESULTS):
            await self.ingest.RegisterDataset(ingest_api.RegisterDatasetRequest(request_id=rid(), dataset=dataset))
        model = Model(name="unpaid", feature_set="order")
        model.gates.min_rows = 50
        model.gates.max_auc_loss = 0.1
        model.gates.max_brier_increase = 0.1
        model.parameters.iterations = 30
        model.retrain.on_alarm = True
        await self.registry.RegisterModel(api.RegisterModelRequest(request_id=rid(), model=model))
        endpoint = Endpoint(name=self.endpoint, model="unpaid", strict=True)
        wanted = {"shadow_units": 20, "canary_shares": [0.25, 0.5], "min_units": 30, "brier_tolerance": 0.2} | policy
        for name, value in wanted.items():
            if isinstance(value, list):
                getattr(endpoint.release, name).extend(value)
            else:
                setattr(endpoint.release, name, value)
        await self.registry.RegisterEndpoint(api.RegisterEndpointRequest(request_id=rid(), endpoint=endpoint))

    async def declare_features(self) -> None:
        """Tell the log of the feature set, for tests that train nothing."""
        event = FeatureSetRegistered(feature_set=FEATURES, version="v1")
        await self.log.append("feature-set/order", [event], request_id=rid(), expected_revision=None)

    def settings(self, **values: Any) -> Settings:
        given = {"judge_seconds": 0.1, "watch_seconds": 3600.0} | values
        return Settings(
            port=0,
            data_dir=self.suite.folder,
            profile=self.profile,
            drain_seconds=0,
            task_queue=self.queue,
            **given,
        )

    @asynccontextmanager
    async def workflows(self, **values: Any) -> AsyncIterator[Any]:
        """Run worker and bridge within a block."""
        async with start("workflows", self.settings(**values), build) as running:
            yield running

    async def bundle(self, seed: int, *, harmful: bool = False) -> str:
        """Import a model and make it releasable."""
        file = await asyncio.to_thread(model_file, seed, harmful=harmful)

        async def messages() -> AsyncIterator[Any]:
            yield trainer_api.ImportModelRequest(header=trainer_api.ImportModelHeader(request_id=rid(), model="unpaid"))
            yield trainer_api.ImportModelRequest(chunk=file)

        digest: str = (await self.trainer.ImportModel(messages())).bundle_digest
        await self.registry.RegisterBundle(
            api.RegisterBundleRequest(request_id=rid(), model="unpaid", bundle_digest=digest)
        )
        await self.registry.EvaluateGates(api.EvaluateGatesRequest(request_id=rid(), bundle_digest=digest))
        await self.registry.ApproveBundle(
            api.ApproveBundleRequest(request_id=rid(), bundle_digest=digest, reason="test")
        )
        return digest

    async def set_champion(self, *digests: str) -> None:
        """Make bundles the champion one after the other, by hand."""
        for digest in digests:
            found = await self.standing()
            changed = await self.registry.ChangeArms(
                api.ChangeArmsRequest(
                    request_id=rid(),
                    endpoint=self.endpoint,
                    generation=found.generation,
                    arms=[Arm(bundle_digest=digest, role=ArmRole.ARM_ROLE_CHAMPION)],
                    reason="test",
                )
            )
            await self.registry.WaitForGeneration(
                api.WaitForGenerationRequest(endpoint=self.endpoint, generation=changed.generation), timeout=20
            )

    async def release(self, digest: str) -> str:
        request = api.RequestReleaseRequest(
            request_id=rid(), endpoint=self.endpoint, bundle_digest=digest, reason="test"
        )
        saga_id: str = (await self.registry.RequestRelease(request)).saga_id
        return saga_id

    async def retrain(self, **fields: Any) -> str:
        request = api.RequestRetrainRequest(request_id=rid(), endpoint=self.endpoint, reason="test", **fields)
        saga_id: str = (await self.registry.RequestRetrain(request)).saga_id
        return saga_id

    async def rollback(self) -> str:
        request = api.RequestRollbackRequest(request_id=rid(), endpoint=self.endpoint, reason="test")
        saga_id: str = (await self.registry.RequestRollback(request)).saga_id
        return saga_id

    async def approve(self, saga_id: str) -> None:
        request = api.ApproveSagaRequest(request_id=rid(), endpoint=self.endpoint, saga_id=saga_id, reason="looks good")
        await self.registry.ApproveSaga(request)

    async def reject(self, saga_id: str) -> None:
        request = api.RejectSagaRequest(request_id=rid(), endpoint=self.endpoint, saga_id=saga_id, reason="a bad idea")
        await self.registry.RejectSaga(request)

    async def standing(self) -> Any:
        return await self.registry.GetEndpoint(api.GetEndpointRequest(name=self.endpoint))

    async def arms(self) -> dict[str, int]:
        return {arm.bundle_digest: arm.role for arm in (await self.standing()).arms}

    async def state_of(self, digest: str) -> int:
        state: int = (await self.registry.GetBundle(api.GetBundleRequest(digest=digest))).bundle.state
        return state

    async def saga(self, saga_id: str, until: Callable[[Saga], bool], seconds: float = 40) -> Saga:
        """Return a saga once it is as wanted."""
        seen: Saga = Saga()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    seen = (await self.registry.GetSaga(api.GetSagaRequest(saga_id=saga_id))).saga
                    if until(seen):
                        return seen
                    await asyncio.sleep(0.05)
        except TimeoutError:
            described = await self.client.get_workflow_handle(saga_id).query("state")
            raise AssertionError(f"{saga_id} is not as wanted: {seen}\n{described}") from None

    async def ended(self, saga_id: str, seconds: float = 40) -> Saga:
        return await self.saga(saga_id, lambda saga: saga.state in _ENDED, seconds)

    async def reached(self, saga_id: str, step: str) -> Saga:
        return await self.saga(saga_id, lambda saga: any(each.step == step for each in saga.steps))

    async def archived(self, saga_id: str, name: str = "") -> bytes:
        """Return the archived history; keep it as a golden one under a name when LINEAL_RECORD_HISTORIES is set."""
        saga = await self.saga(saga_id, lambda found: bool(found.history_digest))
        history = self.suite.artifacts.read(saga.history_digest)
        if name and os.environ.get(_RECORD):
            await asyncio.to_thread((HISTORIES / f"{name}.json").write_bytes, history)
        return history

    async def send(self, dataset: Dataset, rows: list[dict[str, Any]]) -> None:
        """Ingest rows."""
        table = pa.Table.from_pylist(rows, schema=arrow_schema(dataset))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        request = ingest_api.IngestBatchesRequest(
            dataset=dataset.name, batch_id=rid(), arrow=sink.getvalue().to_pybytes()
        )
        answers = [answer async for answer in self.ingest.IngestBatches(iter([request]))]
        assert [answer.accepted_rows for answer in answers] == [len(rows)]

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[list[Any]]:
        """Keep predicting, and tell what came of it, within a block; yields the answers so far."""
        answers: list[Any] = []

        async def client(number: int) -> None:
            turn = 0
            while True:
                turn += 1
                amount, shop, unpaid = draw(8, number * 1_000_000 + turn)
                batch = [
                    await self.predict(f"{number}-{turn}-{row}", amount[row : row + 1], shop[row : row + 1])
                    for row in range(8)
                ]
                answers.extend(batch)
                moments = pa.scalar(turn * 1_000_000, pa.timestamp("us", "UTC")).as_py()
                await self.send(
                    RESULTS,
                    [
                        {"id": answer.prediction_ids[0], "unpaid": unpaid[row], "at": moments}
                        for row, answer in enumerate(batch)
                    ],
                )

        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(client(number)) for number in range(2)]
            yield answers
            for task in clients:
                task.cancel()

    async def predict(self, key: str, amount: Any, shop: Any) -> Any:
        request_id = rid()
        return await self.serving.Predict(
            serving_api.PredictRequest(
                endpoint=self.endpoint,
                request_id=request_id,
                routing_key=key,
                columns=[from_numpy("amount", amount), from_numpy("shop", shop), *self.label_keys(request_id)],
            )
        )

    def label_keys(self, request_id: str) -> list[Any]:
        """Return the columns that name a row in the label dataset: imported models have none."""
        if not self.trained:
            return []
        return [from_numpy("id", np.array([f"{request_id}/0"], dtype=object))]

    trained = False
