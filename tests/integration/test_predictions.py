"""From an imported model to recorded, joined and examined predictions, over real services."""

import asyncio
import io
import json
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import catboost
import grpc
import grpc.aio
import numpy as np
import pyarrow as pa
import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from lineal.api.lineage.v1.projection_service_pb2 import VerifyProjectionsRequest
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceStub
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint
from lineal.api.registry.v1.events_pb2 import ArmsChanged
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.tabular.v1.column_pb2 import Column
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.trace import spans_of
from tabular.bundle import Bundle
from tabular.columns import from_numpy
from tests.integration.exposition import scrape

pytestmark = pytest.mark.timeout(240)


def fitted(seed: int) -> catboost.CatBoostClassifier:
    generator = np.random.default_rng(seed)
    amount = generator.normal(size=500)
    shop = generator.choice(["a", "b"], 500)
    label = (generator.random(500) < 1 / (1 + np.exp(-amount - (shop == "b")))).astype(int)
    rows = [[a, s] for a, s in zip(amount, shop, strict=True)]
    pool = catboost.Pool(rows, label, cat_features=[1], feature_names=["amount", "shop"])
    model = catboost.CatBoostClassifier(
        iterations=20, random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False
    )
    return model.fit(pool)


def model_bytes(model: catboost.CatBoostClassifier) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cbm"
        model.save_model(str(path))
        return path.read_bytes()


def rid() -> str:
    return str(uuid4())


class World:
    """A suite with an endpoint `shop` that serves an imported model."""

    def __init__(self, suite: Any) -> None:
        self.suite = suite
        self.trainer, self.registry, self.serving, self.monitor = (
            suite.stub(name) for name in ("trainer", "registry", "serving", "monitor")
        )

    async def bundle(self, seed: int) -> str:
        file = model_bytes(fitted(seed))

        async def messages() -> Any:
            yield trainer_api.ImportModelRequest(header=trainer_api.ImportModelHeader(request_id=rid(), model="shop"))
            yield trainer_api.ImportModelRequest(chunk=file)

        digest: str = (await self.trainer.ImportModel(messages())).bundle_digest
        await self.releasable(digest)
        return digest

    async def releasable(self, digest: str) -> None:
        for request in (
            registry_api.RegisterBundleRequest(request_id=rid(), model="shop", bundle_digest=digest),
            registry_api.EvaluateGatesRequest(request_id=rid(), bundle_digest=digest),
            registry_api.ApproveBundleRequest(request_id=rid(), bundle_digest=digest, reason="test"),
        ):
            await getattr(self.registry, type(request).__name__.removesuffix("Request"))(request)

    async def arms(self, *arms: Arm) -> int:
        current = await self.registry.GetEndpoint(registry_api.GetEndpointRequest(name="shop"))
        changed = await self.registry.ChangeArms(
            registry_api.ChangeArmsRequest(
                request_id=rid(), endpoint="shop", generation=current.generation, arms=arms, reason="test"
            )
        )
        await self.registry.WaitForGeneration(
            registry_api.WaitForGenerationRequest(endpoint="shop", generation=changed.generation), timeout=60
        )
        generation: int = changed.generation
        return generation

    async def predict(self, rows: int = 1, key: str = "", request_id: str = "", seed: int = 7) -> Any:
        generator = np.random.default_rng(seed)
        columns = [
            from_numpy("amount", generator.normal(size=rows)),
            from_numpy("shop", generator.choice(["a", "b", "new"], rows).astype(object)),
        ]
        return await self.serving.Predict(
            serving_api.PredictRequest(
                endpoint="shop", request_id=request_id or rid(), routing_key=key, columns=columns
            )
        )

    async def recorded(self, count: int) -> Any:
        """Wait until monitor has so many predictions."""
        async with asyncio.timeout(60):
            while True:
                counters = (await self.monitor.GetCounters(monitor_api.GetCountersRequest(endpoint="shop"))).endpoints
                if counters and counters[0].recorded >= count:
                    return counters[0]
                await asyncio.sleep(0.05)


@pytest.fixture
async def world(suite: Any) -> World:
    await suite.start("lineage", "trainer", "registry", "features", "monitor", "serving", metrics_port=0)
    world = World(suite)
    await world.registry.RegisterModel(registry_api.RegisterModelRequest(request_id=rid(), model=Model(name="shop")))
    endpoint = Endpoint(name="shop", model="shop", strict=True)
    endpoint.monitoring.min_rows = 100
    await world.registry.RegisterEndpoint(registry_api.RegisterEndpointRequest(request_id=rid(), endpoint=endpoint))
    return world


def champion(digest: str) -> Arm:
    return Arm(bundle_digest=digest, role=ArmRole.ARM_ROLE_CHAMPION)


async def test_a_prediction_is_answered_recorded_and_found_again(world: World) -> None:
    digest = await world.bundle(1)
    await world.arms(champion(digest))
    answer = await world.predict(rows=3)
    assert (answer.bundle_digest, answer.arm, len(answer.scores)) == (digest, "champion", 3)
    await world.recorded(3)
    found = await world.monitor.GetPrediction(monitor_api.GetPredictionRequest(prediction_id=answer.prediction_ids[1]))
    assert found.prediction.score == answer.scores[1]
    assert found.prediction.trace_id == answer.trace_id
    assert (list(found.numeric_columns), list(found.categorical_columns)) == (["amount"], ["shop"])
    lines = (world.suite.folder / "telemetry" / "serving-spans.jsonl").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if answer.trace_id in line and "ServingService/Predict" in line]
    (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    known = {attribute["key"]: attribute["value"] for attribute in span["attributes"]}
    stages = [int(known[f"lineal.{stage}_micros"]["intValue"]) for stage in ("features", "score", "record", "predict")]
    assert all(stage >= 0 for stage in stages)
    assert stages[0] + stages[1] <= stages[3]
    await assert_counted(world, answer)


async def assert_counted(world: World, answer: Any) -> None:
    """Scrape serving after this one answer, and two requests that are refused."""
    for endpoint in ("shop", "stranger"):
        request = serving_api.PredictRequest(endpoint=endpoint, columns=[from_numpy("amount", np.zeros(1))])
        with pytest.raises(grpc.aio.AioRpcError):
            await world.serving.Predict(request)
    page = await asyncio.to_thread(scrape, world.suite.servers["serving"].metrics_address)
    parts = [page.value(f"lineal_predictions_{part}", endpoint="shop") for part in ("logged_total", "queued")]
    assert sum(parts) == page.value("lineal_predictions_served_total", endpoint="shop") == 3
    assert page.value("lineal_predictions_dropped_total", endpoint="shop") == 0
    version = answer.bundle_digest
    assert page.value("model_infer_request_success_total", model="shop", version=version) == 1
    assert page.value("model_infer_request_duration_count", model="shop", version=version) == 1
    assert page.value("request_predict_seconds_bucket", model_name="shop", le="+Inf") == 1
    assert page.value("model_infer_request_failure_total") == page.value(
        "model_infer_request_failure_total", model="shop"
    )
    assert page.value("grpc_server_handled_total", grpc_method="Predict", grpc_code="NOT_FOUND") == 1
    [traced] = [known for (name, _), known in page.exemplars.items() if name == "request_predict_seconds_bucket"]
    assert traced["trace_id"] == answer.trace_id


async def test_a_retired_endpoint_and_model_keep_serving_and_can_go_back(world: World) -> None:
    first, second = await world.bundle(1), await world.bundle(2)
    await world.arms(champion(first))
    await world.arms(champion(second))
    await world.registry.RetireEndpoint(
        registry_api.RetireEndpointRequest(request_id=rid(), name="shop", reason="closed")
    )
    await world.registry.RetireModel(registry_api.RetireModelRequest(request_id=rid(), name="shop", reason="closed"))
    assert (await world.predict()).bundle_digest == second
    await world.arms(champion(first))
    assert (await world.predict()).bundle_digest == first
    with pytest.raises(grpc.aio.AioRpcError, match="model: model 'shop' is retired"):
        await world.bundle(3)


async def test_scores_are_catboosts_own_over_both_protocols(world: World) -> None:
    digest = await world.bundle(1)
    await world.arms(champion(digest))
    answer = await world.predict(rows=200)
    generator = np.random.default_rng(7)
    amount, shop = generator.normal(size=200), generator.choice(["a", "b", "new"], 200)
    expected = fitted(1).predict_proba([[a, s] for a, s in zip(amount, shop, strict=True)])[:, 1]
    np.testing.assert_allclose(answer.scores, expected, atol=1e-12)
    channel = grpc.aio.insecure_channel(world.suite.address("serving"))
    tensor = oip.ModelInferRequest.InferInputTensor
    typed = oip.ModelInferRequest(
        model_name="shop",
        inputs=[
            tensor(name="amount", datatype="FP64", shape=[200], contents=oip.InferTensorContents(fp64_contents=amount)),
            tensor(
                name="shop",
                datatype="BYTES",
                shape=[200, 1],
                contents=oip.InferTensorContents(bytes_contents=[text.encode() for text in shop]),
            ),
        ],
    )
    stub = GRPCInferenceServiceStub(channel)
    response = await stub.ModelInfer(typed)
    by_name = {output.name: output for output in response.outputs}
    probabilities = np.array(by_name["predict_proba"].contents.fp64_contents).reshape(200, 2)
    np.testing.assert_allclose(probabilities[:, 1], expected, atol=1e-12)
    metadata = await stub.ModelMetadata(oip.ModelMetadataRequest(name="shop"))
    assert [(tensor.name, tensor.datatype) for tensor in metadata.inputs] == [("amount", "FP64"), ("shop", "BYTES")]
    content = [tensor.parameters["content_type"].string_param for tensor in metadata.inputs]
    assert (content, metadata.parameters["content_type"].string_param) == (["np", "str"], "pd")
    await assert_nulls_and_ids(world, stub)
    await channel.close()
    await assert_streamed(world)


async def assert_nulls_and_ids(world: World, stub: Any) -> None:
    """Ask the Open Inference Protocol with null masks and ids as clients make them, ServingService with null rows."""
    nulls = [Column(name="amount", null_rows=[0]), Column(name="shop", null_rows=[0])]
    expected = await world.serving.Predict(serving_api.PredictRequest(endpoint="shop", columns=nulls))
    answers = []
    for sent in ("1", "1", "", rid()):
        request = oip.ModelInferRequest(model_name="shop", id=sent)
        for name, datatype, field, value in (
            ("amount", "INT64", "int64_contents", 5),
            ("amount.null", "BOOL", "bool_contents", True),
            ("shop", "BYTES", "bytes_contents", b"a"),
            ("shop.null", "BOOL", "bool_contents", True),
        ):
            tensor = request.inputs.add(name=name, datatype=datatype, shape=[1])
            getattr(tensor.contents, field).append(value)
        response = await stub.ModelInfer(request)
        answers.append(response.parameters["prediction_id"].string_param)
        assert response.id == (sent or answers[-1].removesuffix("/0"))
        probabilities = next(output for output in response.outputs if output.name == "predict_proba")
        assert probabilities.contents.fp64_contents[1] == pytest.approx(expected.scores[0], abs=1e-12)
    # Ids that are no UUIDs name no request: the second "1" is another one.
    assert len(set(answers)) == 4
    assert answers[3] == f"{sent}/0"


async def assert_streamed(world: World) -> None:
    """Stream requests of which one is refused; then the replica stops while the stream is open."""
    shop = from_numpy("shop", np.array(["a"], dtype=object))

    def request(amount: float, request_id: str) -> serving_api.StreamPredictionsRequest:
        columns = [] if np.isnan(amount) else [from_numpy("amount", np.array([amount])), shop]
        single = serving_api.PredictRequest(endpoint="shop", request_id=request_id, columns=columns)
        return serving_api.StreamPredictionsRequest(request=single)

    sent = [request(amount, rid()) for amount in (0.5, float("nan"), *np.linspace(-2, 2, 40))]
    stream = world.serving.StreamPredictions(timeout=30)
    for each in sent:
        await stream.write(each)
    answers = [await stream.read() for _ in sent]
    assert [answer.request_id for answer in answers] == [each.request.request_id for each in sent]
    status = Status.FromString(answers[1].error)
    assert (status.code, "no columns" in status.message) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], True)
    for asked, answer in zip(sent, answers, strict=True):
        if answer.HasField("response"):
            # A repeated request has its recorded answer, by whichever call it comes.
            assert (await world.serving.Predict(asked.request)).scores == answer.response.scores
    traced = {answer.response.trace_id for answer in answers if answer.HasField("response")}
    assert len(traced) == 1
    await stream.write(request(1.0, ""))
    made = await stream.read()
    assert made.request_id == made.response.request_id != ""
    brief = world.serving.StreamPredictions(timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await brief.read()
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    world.suite.servers["serving"].harness.draining.set()
    with pytest.raises(grpc.aio.AioRpcError, match="this replica stops") as stopped:
        await stream.read()
    assert stopped.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_same_request_again_has_the_same_answer_and_one_record(world: World) -> None:
    await world.arms(champion(await world.bundle(1)))
    request_id = rid()
    first = await world.predict(request_id=request_id)
    again = await world.predict(request_id=request_id, seed=8)
    assert list(again.scores) == list(first.scores)
    written = list(spans_of(world.suite.folder / "telemetry", first.trace_id))
    assert [span["name"] for span in written if span["service"] == "lineal-serving"] == [
        "lineal.api.serving.v1.ServingService/Predict",
        "repeated answer",
    ]
    await world.predict()
    assert (await world.recorded(2)).recorded == 2


async def test_a_suspended_endpoint_answers_nothing_whatever_is_restarted_until_it_is_resumed(world: World) -> None:
    await world.arms(champion(await world.bundle(1)))
    assert not await refusal(world)
    await world.registry.SuspendEndpoint(
        registry_api.SuspendEndpointRequest(request_id=rid(), name="shop", reason="wrong answers")
    )
    async with asyncio.timeout(60):
        while not await refusal(world):
            pass
    # A replica that starts has read the log before it answers anything.
    artifacts = str(world.suite.folder / "artifacts")
    await world.suite.start("serving", data_dir=world.suite.folder / "new", artifacts_url=artifacts)
    world.serving = world.suite.stub("serving")
    told = await refusal(world)
    assert told.startswith("endpoint 'shop' is suspended by ")
    assert told.endswith(": wrong answers; `lineal resume` ends it")
    found = await world.registry.GetEndpoint(registry_api.GetEndpointRequest(name="shop"))
    assert found.suspension.endswith(": wrong answers")
    await world.registry.ResumeEndpoint(
        registry_api.ResumeEndpointRequest(request_id=rid(), name="shop", reason="mended")
    )
    async with asyncio.timeout(60):
        while await refusal(world):
            pass
    assert not (await world.registry.GetEndpoint(registry_api.GetEndpointRequest(name="shop"))).suspension


async def refusal(world: World) -> str:
    """Ask until there is an answer or a refusal, which is returned; a replica without a lease yet is asked again."""
    async with asyncio.timeout(60):
        while True:
            try:
                await world.predict()
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    return error.details() or ""
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)  # between two questions to a replica that starts
            else:
                return ""


async def test_every_arm_scores_what_another_answered(world: World) -> None:
    first, second = await world.bundle(1), await world.bundle(2)
    await world.arms(champion(first), Arm(bundle_digest=second, role=ArmRole.ARM_ROLE_SHADOW))
    for number in range(30):
        await world.predict(key=str(number))
    await world.recorded(30)
    async with asyncio.timeout(60):
        while True:
            data = b"".join(
                [
                    piece.arrow
                    async for piece in world.monitor.ReadPredictions(
                        monitor_api.ReadPredictionsRequest(endpoint="shop")
                    )
                ]
            )
            frame = pa.ipc.open_stream(io.BytesIO(data)).read_pandas()
            if f"score_{second}" in frame and frame[f"score_{second}"].notna().all():
                break
    assert len(frame) == 30


async def test_closed_periods_are_sealed_and_tables_rebuild_alike(world: World) -> None:
    await world.arms(champion(await world.bundle(1)))
    day = 86_400_000_000
    for number in range(4):
        columns = [
            from_numpy("amount", np.random.default_rng(number).normal(size=150)),
            from_numpy("shop", np.array(["a"] * 150, dtype=object)),
        ]
        await world.serving.Predict(
            serving_api.PredictRequest(
                endpoint="shop", columns=columns, event_time_micros=[1_400_000_000_000_000 + number * 5 * day]
            )
        )
    await world.recorded(600)
    examined = await world.monitor.ExaminePeriods(
        monitor_api.ExaminePeriodsRequest(request_id=rid(), endpoint="shop"), timeout=60
    )
    assert [period.predictions for period in examined.periods] == [150, 150]
    assert (await world.recorded(600)).sealed == 600
    again = await world.monitor.ExaminePeriods(
        monitor_api.ExaminePeriodsRequest(request_id=rid(), endpoint="shop"), timeout=60
    )
    assert again.periods == []
    for name in ("monitor", "registry", "trainer"):
        channel = grpc.aio.insecure_channel(world.suite.address(name))
        verified = await ProjectionServiceStub(channel).VerifyProjections(VerifyProjectionsRequest())
        for verification in verified.verifications:
            assert verification.live_digest == verification.rebuilt_digest, verification.projection.name
        await channel.close()


async def test_arms_that_cannot_be_loaded_leave_those_before_and_are_told(world: World) -> None:
    first, second = await world.bundle(1), await world.bundle(2)
    generation = await world.arms(champion(first))
    file = Bundle.from_bytes(world.suite.artifacts.read(second)).files["model.cbm"]
    path = world.suite.artifacts.path(file)
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:100] + b"\x00" + whole[101:])
    # Past registry, which refuses a bundle that is damaged already: as if it were damaged a moment later.
    changed = ArmsChanged(endpoint="shop", generation=generation + 1, arms=[champion(second)])
    log = world.suite.servers["serving"].harness.log
    await log.append("endpoint/shop", [changed], request_id=rid(), expected_revision=None)
    wanted = registry_api.WaitForGenerationRequest(endpoint="shop", generation=generation + 1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await world.registry.WaitForGeneration(wanted, timeout=20)
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert f"bundle {second[:12]} cannot be loaded: model.cbm: artifact {file}" in str(error.value.details())
    assert "restore it from a backup" in str(error.value.details())
    assert (await world.predict()).bundle_digest == first
    counters = (await world.serving.GetCounters(serving_api.GetCountersRequest())).endpoints[0]
    assert (counters.refused_generation, counters.failed_requests) == (generation + 1, 0)
    assert file in counters.refusal
    path.write_bytes(whole)
    async with asyncio.timeout(60):
        while (await world.predict()).bundle_digest != second:
            await asyncio.sleep(0.05)
        while (await world.registry.ListReplicas(registry_api.ListReplicasRequest())).replicas[0].refused:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ([from_numpy("amount", np.array([1.0]))], "columns[shop]"),
        (
            [from_numpy("amount", np.array(["x"], dtype=object)), from_numpy("shop", np.array(["a"], dtype=object))],
            "columns[amount]",
        ),
        (
            [from_numpy("amount", np.array([1.0, 2.0])), from_numpy("shop", np.array(["a"], dtype=object))],
            "columns[shop]",
        ),
        ([], "columns"),
    ],
)
async def test_a_bad_request_names_the_field(world: World, columns: list[Any], field: str) -> None:
    await world.arms(champion(await world.bundle(1)))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await world.serving.Predict(serving_api.PredictRequest(endpoint="shop", columns=columns))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    metadata = dict(error.value.trailing_metadata())
    assert field.encode() in metadata["grpc-status-details-bin"]


async def test_an_unknown_endpoint_is_not_found(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await world.serving.Predict(
            serving_api.PredictRequest(endpoint="nothing", columns=[from_numpy("a", np.ones(1))])
        )
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
