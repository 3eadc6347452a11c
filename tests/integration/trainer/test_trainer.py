import io
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import catboost
import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chassis.artifacts import canonical_json
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_set_pb2 import Classes, ColumnSource, ColumnType, FeatureColumn, FeatureSet, Label
from lineal.api.trainer.v1 import trainer_service_pb2 as api
from lineal.api.trainer.v1.run_pb2 import Parameters, RunState
from tabular.bundle import Bundle
from tabular.guard import Guard
from tabular.scorer import Scorer
from tabular.vectors import assemble

pytestmark = pytest.mark.timeout(120)


def table(rows: int = 3000, seed: int = 1) -> pa.Table:
    generator = np.random.default_rng(seed)
    amount = generator.normal(size=rows)
    shop = generator.choice(["a", "b", "c"], size=rows)
    chance = 1 / (1 + np.exp(-(1.5 * amount + (shop == "b"))))
    amount[generator.random(rows) < 0.05] = np.nan
    return pa.table(
        {
            "id": np.arange(rows),
            "cutoff": pa.array(np.arange(rows) * 60_000_000, type=pa.timestamp("us", tz="UTC")),
            "amount": amount,
            "shop": pa.array(shop.tolist()),
            "label": (generator.random(rows) < chance).astype(float),
        }
    )


async def training_set(suite: Any, rows: pa.Table, label: Label | None = None) -> str:
    buffer = io.BytesIO()
    pq.write_table(rows, buffer)
    file = suite.artifacts.put(buffer.getvalue())
    digest: str = suite.artifacts.put(
        canonical_json({"files": [{"digest": file, "rows": len(rows)}], "row_key": ["id"]})
    )
    log = suite.servers["trainer"].harness.log
    columns = [
        FeatureColumn(name="amount", type=ColumnType.COLUMN_TYPE_NUMERIC, source=ColumnSource.COLUMN_SOURCE_VIEW),
        FeatureColumn(name="shop", type=ColumnType.COLUMN_TYPE_CATEGORICAL, source=ColumnSource.COLUMN_SOURCE_REQUEST),
    ]
    label = label or Label(key=["id"], greater_than=0)
    features = FeatureSetRegistered(feature_set=FeatureSet(name="f", label=label), version="v1", columns=columns)
    await log.append("feature-set/f", [features], request_id=str(uuid4()), expected_revision=None)
    built = TrainingSetBuilt(training_set_digest=digest, feature_set="f", feature_set_version="v1")
    await log.append(f"training-set/{digest}", [built], request_id=str(uuid4()), expected_revision=None)
    return digest


async def trained(stub: Any, digest: str, **parameters: Any) -> Any:
    started = await stub.StartRun(
        api.StartRunRequest(
            request_id=str(uuid4()),
            model="m",
            training_set_digest=digest,
            parameters=Parameters(iterations=60, **parameters),
        )
    )
    last = None
    async for response in stub.WatchRun(api.WatchRunRequest(run_id=started.run_id)):
        last = response.run
    return last


async def test_a_run_makes_a_bundle_that_scores(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    stub = suite.stub("trainer")
    rows = table()
    run = await trained(stub, await training_set(suite, rows))
    assert run.state == RunState.RUN_STATE_COMPLETED, run.failure
    metrics = {metric.name: metric for metric in run.metrics}
    assert metrics["auc"].value > 0.7
    assert metrics["auc"].lower < metrics["auc"].value < metrics["auc"].upper
    bundle = Bundle.from_bytes(suite.artifacts.read(run.bundle_digest))
    assert [column.name for column in bundle.columns] == ["amount", "shop"]
    assert bundle.label_key == ("id",)
    scorer = Scorer(bundle, suite.artifacts.read(bundle.files["model.cbm"]))
    values = {name: rows[name].to_numpy() for name in ("amount", "shop")}
    scores = scorer.score(assemble(bundle.columns, values, len(rows))).calibrated
    assert np.all((scores > 0) & (scores < 1))
    reference = pq.read_table(io.BytesIO(suite.artifacts.read(bundle.files["drift_reference.parquet"])))
    assert reference.column_names == ["amount", "shop", "score"]
    guard = Guard.from_bytes(suite.artifacts.read(bundle.files["guard.json"]), bundle.numeric, bundle.categorical)
    asked = assemble(bundle.columns, {"amount": np.array([99.0]), "shop": np.array(["z"], dtype=object)}, 1)
    (found,) = guard.find(asked, asked.numeric.tolist(), asked.categorical.tolist())
    assert (found.out_of_range, found.unseen, found.out_of_distribution) == (["amount"], ["shop"], True)
    assert guard.rarities(assemble(bundle.columns, values, len(rows))).mean() < guard.limit
    card = (await stub.GetCard(api.GetCardRequest(bundle_digest=run.bundle_digest))).markdown
    assert "untouched" in card


async def test_the_same_run_again_gives_the_same_model(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    stub = suite.stub("trainer")
    digest = await training_set(suite, table())
    runs = [await trained(stub, digest) for _ in range(2)]
    models = [Bundle.from_bytes(suite.artifacts.read(run.bundle_digest)).model_digest for run in runs]
    assert models[0] == models[1]


async def test_a_run_learns_several_classes(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    stub = suite.stub("trainer")
    rows = table()
    amounts = np.nan_to_num(rows["amount"].to_numpy())
    numbers = np.digitize(amounts, [-0.5, 0.5]).astype(float)
    rows = rows.set_column(rows.column_names.index("label"), "label", pa.array(numbers))
    label = Label(key=["id"], classes=Classes(values=["low", "middle", "high", "never seen"]))
    digest = await training_set(suite, rows, label)
    run = await trained(stub, digest, trials=1)
    assert run.state == RunState.RUN_STATE_COMPLETED, run.failure
    metrics = {metric.name: metric.value for metric in run.metrics}
    assert metrics["accuracy"] > 0.9
    bundle = Bundle.from_bytes(suite.artifacts.read(run.bundle_digest))
    assert (bundle.problem, bundle.classes) == ("multiclass", ("low", "middle", "high", "never seen"))
    scorer = Scorer(bundle, suite.artifacts.read(bundle.files["model.cbm"]))
    values = {name: rows[name].to_numpy() for name in ("amount", "shop")}
    scores = scorer.score(assemble(bundle.columns, values, len(rows)))
    assert scores.calibrated.shape == (len(rows), 4)
    assert np.mean(scorer.decide(scores.calibrated) == numbers) > 0.9
    reference = pq.read_table(io.BytesIO(suite.artifacts.read(bundle.files["drift_reference.parquet"])))
    assert reference["score"].to_numpy().max() > 0.9
    card = (await stub.GetCard(api.GetCardRequest(bundle_digest=run.bundle_digest))).markdown
    assert "0 is low, 1 is middle, 2 is high, 3 is never seen" in card
    request = api.EvaluateBundlesRequest(training_set_digest=digest, bundle_digests=[run.bundle_digest] * 2)
    request.request_id = str(uuid4())
    evaluation = (await stub.EvaluateBundles(request)).evaluation
    assert {metric.name for metric in evaluation.differences[0].metrics} == {"accuracy", "auc", "brier", "log_loss"}


async def test_a_search_keeps_its_trials(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    run = await trained(suite.stub("trainer"), await training_set(suite, table(600)), trials=2)
    assert run.state == RunState.RUN_STATE_COMPLETED, run.failure


async def test_bundles_are_compared_on_the_same_untouched_rows(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    stub = suite.stub("trainer")
    digest = await training_set(suite, table())
    good = await trained(stub, digest)
    poor = await trained(stub, digest, exclude_columns=["amount"])
    response = await stub.EvaluateBundles(
        api.EvaluateBundlesRequest(
            request_id=str(uuid4()),
            training_set_digest=digest,
            bundle_digests=[poor.bundle_digest, good.bundle_digest],
        )
    )
    assert response.evaluation.rows == 450
    difference = {metric.name: metric for metric in response.evaluation.differences[0].metrics}
    assert difference["auc"].upper < 0
    assert difference["brier"].lower > 0


async def test_a_training_set_that_is_too_small_fails_the_run_in_words(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    run = await trained(suite.stub("trainer"), await training_set(suite, table(10)))
    assert run.state == RunState.RUN_STATE_FAILED
    assert "at least 20" in run.failure


async def test_parameters_out_of_range_are_named(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    digest = await training_set(suite, table(100))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await trained(suite.stub("trainer"), digest, depth=40)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_training_set_is_not_found(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await trained(suite.stub("trainer"), "0" * 64)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def model_file() -> bytes:
    model = catboost.CatBoostClassifier(iterations=5, verbose=False, allow_writing_files=False)
    model.fit([[1.0, "x"], [2.0, "y"], [3.0, "x"], [4.0, "y"]], [0, 1, 0, 1], cat_features=[1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cbm"
        model.save_model(str(path))
        return path.read_bytes()


async def imported(stub: Any, file: bytes) -> Any:
    async def messages() -> Any:
        header = api.ImportModelHeader(request_id=str(uuid4()), model="m", description="from elsewhere")
        yield api.ImportModelRequest(header=header)
        for start in range(0, len(file), 1000):
            yield api.ImportModelRequest(chunk=file[start : start + 1000])

    return await stub.ImportModel(messages())


async def test_a_model_trained_elsewhere_becomes_a_bundle(suite: Any) -> None:
    await suite.start("lineage", "trainer")
    response = await imported(suite.stub("trainer"), model_file())
    bundle = Bundle.from_bytes(suite.artifacts.read(response.bundle_digest))
    assert [(column.name, column.type) for column in bundle.columns] == [("0", "numeric"), ("1", "categorical")]
    assert bundle.problem == "binary"


@pytest.mark.parametrize("damage", [lambda file: b"not a model", lambda file: file[: len(file) // 2]])
async def test_a_damaged_model_file_is_refused(suite: Any, damage: Any) -> None:
    await suite.start("lineage", "trainer")
    stub = suite.stub("trainer")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await imported(stub, damage(model_file()))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await stub.ListRuns(api.ListRunsRequest())).runs == []
