"""Raw scores are CatBoost's own to 1e-12 over both protocols, for all problems, raw and typed; SHAP values too.

`LINEAL_TEST_ROWS=100000 python -m pytest` on this file asks for more rows.
"""

import os
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import catboost
import grpc
import numpy as np
import numpy.typing as npt
import pytest

from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from tabular.columns import from_numpy

pytestmark = pytest.mark.timeout(300)
ROWS = int(os.environ.get("LINEAL_TEST_ROWS", "3000"))
# Without the variable the rows of several classes are fewer: their path differs in shapes only.
MULTICLASS_ROWS = ROWS if "LINEAL_TEST_ROWS" in os.environ else 1_000
PART = 1_000
COLUMNS = ("amount", "shop", "age", "city")

Rows = dict[str, npt.NDArray[Any]]


def rows(count: int, seed: int) -> Rows:
    """Return rows with nulls among the numbers; but for seed 0 also among the texts, of which a part was not learnt."""
    chance = np.random.default_rng(seed)
    amount, age = chance.normal(size=count) * 100, chance.normal(size=count)
    age[chance.random(count) < 0.1] = np.nan
    shop = chance.choice(np.array(["a", "b", "", "ü", "new"][: 4 + (seed > 0)], dtype=object), count)
    city = np.array([f"c{n}" for n in chance.integers(0, 60 if seed else 40, count)], dtype=object)
    if seed:
        shop[chance.random(count) < 0.05] = None
    return {"amount": amount, "shop": shop, "age": age, "city": city}


def listed(values: Rows) -> list[list[Any]]:
    """Return rows as CatBoost takes them, which has no null for texts: the empty text stands for it."""
    plain = ([("" if value is None else value) for value in values[name].tolist()] for name in COLUMNS)
    return [list(row) for row in zip(*plain, strict=True)]


def fitted(loss: str) -> catboost.CatBoost:
    learnt = rows(1_000, 0)
    target = learnt["amount"] / 100 + (learnt["shop"] == "b") + np.random.default_rng(1).normal(size=1_000)
    label = target if loss == "RMSE" else (target > 0).astype(int)
    if loss == "MultiClass":
        label = np.array(["low", "middle", "high"])[np.digitize(target, [-0.5, 0.5])]
    settings = {"loss_function": loss, "iterations": 60, "thread_count": 1, "allow_writing_files": False}
    pool = catboost.Pool(listed(learnt), label, cat_features=[1, 3], feature_names=list(COLUMNS))
    return catboost.CatBoost(settings).fit(pool, verbose=False)


async def release(suite: Any, name: str, model: catboost.CatBoost) -> None:
    """Import a model and make it the champion of an endpoint."""
    trainer, registry = suite.stub("trainer"), suite.stub("registry")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cbm"
        model.save_model(str(path))
        file = path.read_bytes()

    async def messages() -> Any:
        yield trainer_api.ImportModelRequest(header=trainer_api.ImportModelHeader(request_id=str(uuid4()), model=name))
        yield trainer_api.ImportModelRequest(chunk=file)

    await registry.RegisterModel(registry_api.RegisterModelRequest(request_id=str(uuid4()), model=Model(name=name)))
    digest = (await trainer.ImportModel(messages())).bundle_digest
    endpoint = Endpoint(name=name, model=name)
    champion = Arm(bundle_digest=digest, role=ArmRole.ARM_ROLE_CHAMPION)
    for request in (
        registry_api.RegisterBundleRequest(model=name, bundle_digest=digest),
        registry_api.EvaluateGatesRequest(bundle_digest=digest),
        registry_api.ApproveBundleRequest(bundle_digest=digest, reason="test"),
        registry_api.RegisterEndpointRequest(endpoint=endpoint),
        registry_api.ChangeArmsRequest(endpoint=name, arms=[champion], reason="test"),
    ):
        request.request_id = str(uuid4())
        answer = await getattr(registry, type(request).__name__.removesuffix("Request"))(request)
    wanted = registry_api.WaitForGenerationRequest(endpoint=name, generation=answer.generation)
    await registry.WaitForGeneration(wanted, timeout=60)


def infer(name: str, part: Rows, *, raw: bool) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=name)
    for column, values in part.items():
        if values.dtype != object:
            bytes_ = values.astype("<f8").tobytes()
            add(request, column, "FP64", values.tolist(), bytes_ if raw else None)
            continue
        texts = [(value or "").encode() for value in values]
        bytes_ = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        add(request, column, "BYTES", texts, bytes_ if raw else None)
        nulls = [value is None for value in values]
        if any(nulls):
            add(request, f"{column}.null", "BOOL", nulls, bytes(nulls) if raw else None)
    return request


def add(request: oip.ModelInferRequest, name: str, datatype: str, values: list[Any], raw: bytes | None) -> None:
    tensor = request.inputs.add(name=name, datatype=datatype, shape=[len(values)])
    if raw is None:
        getattr(tensor.contents, f"{datatype.lower()}_contents").extend(values)
    else:
        request.raw_input_contents.append(raw)


def assert_equal(found: Any, own: npt.NDArray[np.float64]) -> None:
    np.testing.assert_allclose(np.array(found), own, rtol=0, atol=1e-12)


async def assert_explained(serving: Any, name: str, model: catboost.CatBoost, part: Rows) -> None:
    sent = [from_numpy(column, values) for column, values in part.items()]
    answer = await serving.Explain(serving_api.ExplainRequest(endpoint=name, columns=sent))
    pool = catboost.Pool(listed(part), cat_features=[1, 3])
    own = model.get_feature_importance(pool, type="ShapValues", thread_count=1)
    if own.ndim > 2:
        decided = model.predict(listed(part), prediction_type="RawFormulaVal", thread_count=1).argmax(axis=1)
        own = own[np.arange(len(own)), decided]
    for row, explanation in enumerate(answer.explanations):
        moved = {each.column: each.contribution for each in explanation.contributions}
        assert_equal([moved[column] for column in COLUMNS] + [explanation.expected_raw_score], own[row])
        assert explanation.raw_score == pytest.approx(sum(own[row]), abs=1e-9)
        sizes = [abs(each.contribution) for each in explanation.contributions]
        assert sizes == sorted(sizes, reverse=True)
        amount = next(each for each in explanation.contributions if each.column == "amount")
        assert amount.number == part["amount"][row]


async def test_raw_scores_are_catboosts_own(suite: Any) -> None:
    await suite.start("lineage", "trainer", "registry", "features", "monitor", "serving")
    serving = suite.stub("serving")
    for name, loss in (("binary", "Logloss"), ("regression", "RMSE"), ("multiclass", "MultiClass")):
        model = fitted(loss)
        await release(suite, name, model)
        async with grpc.aio.insecure_channel(suite.address("serving")) as channel:
            stub: Any = GRPCInferenceServiceStub(channel)
            for start in range(0, MULTICLASS_ROWS if loss == "MultiClass" else ROWS, PART):
                part = rows(PART, start + 1)
                own = model.predict(listed(part), prediction_type="RawFormulaVal", thread_count=1)
                sent = [from_numpy(column, values) for column, values in part.items()]
                answer = await serving.Predict(serving_api.PredictRequest(endpoint=name, columns=sent))
                if loss == "MultiClass":
                    shares = model.predict(listed(part), prediction_type="Probability", thread_count=1)
                    assert list(answer.classes) == ["high", "low", "middle"]
                    assert_equal(answer.class_scores, shares.reshape(-1))
                    assert_equal(answer.scores, shares.max(axis=1))
                    assert list(answer.decisions) == own.argmax(axis=1).tolist()
                else:
                    assert_equal(answer.scores, own if loss == "RMSE" else 1 / (1 + np.exp(-own)))
                typed = await stub.ModelInfer(infer(name, part, raw=False))
                plain = {output.name: list(output.contents.fp64_contents) for output in typed.outputs}
                assert_equal(plain["raw"], own.reshape(-1))
                shapes = {output.name: list(output.shape) for output in typed.outputs}
                assert shapes["raw"] == list(own.shape)
                assert shapes.get("predict_proba", [PART, 2]) == [PART, 3 if loss == "MultiClass" else 2]
                binary = await stub.ModelInfer(infer(name, part, raw=True))
                place = [output.name for output in binary.outputs].index("raw")
                assert_equal(np.frombuffer(binary.raw_output_contents[place]), own.reshape(-1))
        await assert_explained(serving, name, model, rows(50, 1))
    many = [from_numpy("amount", np.zeros(1_001))]
    with pytest.raises(grpc.aio.AioRpcError, match="1,001 rows are too many for one explanation"):
        await serving.Explain(serving_api.ExplainRequest(endpoint="binary", columns=many))
