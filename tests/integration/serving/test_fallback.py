"""When no model can answer, the declared fallback does: said in the answer, recorded, and out of every statistic."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from chassis.artifacts import canonical_json
from lineal.api.features.v1.transform_pb2 import Ratio, Transform
from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.report_pb2 import PeriodReport
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Endpoint, Fallback
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.calls import Services
from lineal.profile import Profile
from lineal.trace import trace
from tabular.bundle import Bundle, ModelColumn
from tests.integration.exposition import scrape
from tests.integration.serving.credit import Bank, Rows, rows, sent
from tests.integration.serving.test_flags import recorded
from tests.integration.test_predictions import champion, rid

pytestmark = pytest.mark.timeout(180)

REFUSE = Fallback(score=1.0, decision=1, reason="nobody gets a credit unseen")


@pytest.fixture
async def bank(suite: Any) -> Bank:
    # Nobody listens where features should be.
    suite.servers["features"] = SimpleNamespace(address="127.0.0.1:9", harness=None)
    await suite.start("lineage", "registry", "monitor", detector="scipy")
    await suite.start("serving", metrics_port=0)
    suite.servers["features"] = suite.servers.pop("features")
    return Bank(suite)


async def declare(bank: Bank, fallback: Fallback) -> None:
    """Declare model and endpoint, and wait until the replica knows the endpoint."""
    model = Model(name="shop")
    await bank.registry.RegisterModel(registry_api.RegisterModelRequest(request_id=rid(), model=model))
    endpoint = Endpoint(name="shop", model="shop", strict=True, fallback=fallback)
    endpoint.monitoring.min_rows = 10
    await bank.registry.RegisterEndpoint(registry_api.RegisterEndpointRequest(request_id=rid(), endpoint=endpoint))
    await answered(bank, rows(1, 5))


async def answered(bank: Bank, part: Rows, arm: str = "fallback", **fields: Any) -> serving_api.PredictResponse:
    """Ask until an arm answers, or any: a replica that starts, or has not read an event yet, is asked again."""
    async with asyncio.timeout(60):
        while True:
            request = serving_api.PredictRequest(endpoint="shop", request_id=rid(), columns=sent(part), **fields)
            try:
                found: serving_api.PredictResponse = await bank.serving.Predict(request)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                    raise
            else:
                if arm in ("", found.arm):
                    return found
            await asyncio.sleep(0.02)  # between two questions


async def test_without_a_bundle_the_fallback_answers_over_both_protocols_and_is_recorded(bank: Bank) -> None:
    await declare(bank, REFUSE)
    request = serving_api.PredictRequest(endpoint="shop", request_id=rid(), columns=sent(rows(3, 5)))
    answer = await bank.serving.Predict(request)
    assert (list(answer.scores), list(answer.decisions)) == ([1.0] * 3, [1] * 3)
    assert (answer.arm, answer.bundle_digest, answer.fallback_cause) == ("fallback", "", "no_bundle")
    assert answer.fallback_reason == REFUSE.reason
    assert await bank.serving.Predict(request) == answer
    record = await recorded(bank, answer.prediction_ids[2])
    assert (record.arm, record.bundle_digest, record.fallback_cause) == ("fallback", "", "no_bundle")
    assert (record.score, record.decision, record.fallback, len(record.numeric_values)) == (1.0, 1, False, 0)

    async with grpc.aio.insecure_channel(bank.suite.address("serving")) as channel:
        stub = GRPCInferenceServiceStub(channel)
        matrix = oip.ModelInferRequest(model_name="shop")
        tensor = matrix.inputs.add(name="input", datatype="FP64", shape=[2, 6])
        tensor.contents.fp64_contents.extend([0.0] * 12)
        response = await stub.ModelInfer(matrix)
        outputs = {output.name: output.contents for output in response.outputs}
        assert list(outputs["predict"].int64_contents) == [1, 1]
        assert list(outputs["predict_proba"].fp64_contents) == [0.0, 1.0, 0.0, 1.0]
        assert (response.model_version, response.parameters["arm"].string_param) == ("", "fallback")
        assert response.parameters["fallback_cause"].string_param == "no_bundle"
        matrix.outputs.add(name="raw")
        with pytest.raises(grpc.aio.AioRpcError, match="fallback has answered, which has no raw score"):
            await stub.ModelInfer(matrix)
        # Who names a bundle wants no other answer.
        with pytest.raises(grpc.aio.AioRpcError, match="has no champion"):
            await stub.ModelInfer(
                oip.ModelInferRequest(model_name="shop", model_version="0" * 64, inputs=matrix.inputs)
            )

    profile = Profile.load(bank.suite.profile)
    found = await asyncio.to_thread(_traced, profile, answer.prediction_ids[0])
    assert (found.bundle, found.prediction.prediction.fallback_cause) == (None, "no_bundle")
    proof = await bank.monitor.GetPredictionProof(
        monitor_api.GetPredictionProofRequest(prediction_id=answer.prediction_ids[0]), timeout=60
    )
    assert list(proof.manifests) == []
    page = await asyncio.to_thread(scrape, bank.suite.servers["serving"].metrics_address)
    assert page.value("lineal_predictions_fallback_total", endpoint="shop", cause="no_bundle") == 8


def _traced(profile: Profile, prediction_id: str) -> Any:
    with Services(profile, 60.0) as services:
        return trace(services, prediction_id)


async def test_a_suspended_endpoint_is_in_its_safe_state_within_two_seconds_and_after_a_restart(bank: Bank) -> None:
    bundle = await bank.open(None, fallback=Fallback(**_fields(REFUSE), when_suspended=True))
    assert (await bank.answers(rows(2, 5))).bundle_digest == bundle
    started = time.monotonic()
    suspension = registry_api.SuspendEndpointRequest(request_id=rid(), name="shop", reason="wrong answers")
    await bank.registry.SuspendEndpoint(suspension)
    answer = await answered(bank, rows(2, 5))
    assert time.monotonic() - started < 2.0
    assert (list(answer.scores), answer.fallback_cause) == ([1.0, 1.0], "suspended")
    # A replica that starts has read the log before it answers anything.
    folder = bank.suite.folder
    await bank.suite.start("serving", data_dir=folder / "new", artifacts_url=str(folder / "artifacts"))
    bank.serving = bank.suite.stub("serving")
    assert (await answered(bank, rows(1, 5), "")).fallback_cause == "suspended"
    resumption = registry_api.ResumeEndpointRequest(request_id=rid(), name="shop", reason="mended")
    await bank.registry.ResumeEndpoint(resumption)
    assert (await answered(bank, rows(1, 5), "champion")).bundle_digest == bundle


async def test_a_suspended_endpoint_refuses_where_its_fallback_is_not_for_that(bank: Bank) -> None:
    await declare(bank, REFUSE)
    suspension = registry_api.SuspendEndpointRequest(request_id=rid(), name="shop", reason="wrong answers")
    await bank.registry.SuspendEndpoint(suspension)
    with pytest.raises(grpc.aio.AioRpcError, match=r"is suspended by .*wrong answers") as refused:
        await answered(bank, rows(1, 5), "champion")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_features_that_cannot_be_looked_up_and_scoring_that_fails_leave_the_fallback(bank: Bank) -> None:
    await declare(bank, REFUSE)
    plain = Bundle.from_bytes(bank.suite.artifacts.read(bank.credit_bundle(guarded=False)))
    columns = [
        ModelColumn(each.name, each.type, "view" if each.name == "debt" else "request") for each in plain.columns
    ]
    looking = replace(
        plain, columns=tuple(columns), entity_columns=("person",), feature_set="f", feature_set_version="1"
    )
    await release(bank, looking)
    whole = rows(2, 5)
    assert (await answered(bank, whole, "champion")).fallback_cause == ""
    part = {name: values for name, values in whole.items() if name != "debt"}
    part["person"] = np.array(["ada", "bob"], dtype=object)
    answer = await bank.answers(part)
    assert (answer.arm, answer.fallback_cause) == ("fallback", "features")
    assert dict((await recorded(bank, answer.prediction_ids[1])).entities) == {"person": "bob"}
    # What a request lacks is its sender's to mend.
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await bank.answers({name: values for name, values in whole.items() if name != "age"})
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    # A manifest that leaves out what its transform takes; the bundle's trial scores vectors, and has nothing to say.
    columns = [ModelColumn(c.name, c.type, "transform" if c.name == "debt" else "request") for c in plain.columns]
    ratio = Transform(name="debt", ratio=Ratio(numerator="owed", denominator="held"))
    await release(bank, replace(plain, columns=tuple(columns), transforms=(ratio,)))
    answer = await bank.answers(part)
    assert (answer.arm, answer.fallback_cause, list(answer.scores)) == ("fallback", "scoring", [1.0, 1.0])


async def release(bank: Bank, bundle: Bundle) -> None:
    digest = bank.suite.artifacts.put(canonical_json(bundle.to_json()))
    await bank.releasable(digest)
    await bank.arms(champion(digest))


async def test_monitor_leaves_a_fallback_out_of_its_statistics(bank: Bank) -> None:
    await declare(bank, REFUSE)
    day = 86_400_000_000
    start = 1_400_000_000_000_000 // (7 * day) * 7 * day
    # A week of the fallback alone, a week of both, and one that what came at the start, now, closes with them.
    await answered(bank, rows(20, 5), event_time_micros=[start + day])
    await answered(bank, rows(30, 5), event_time_micros=[start + 8 * day])
    await bank.releasable(bundle := bank.credit_bundle(guarded=False))
    await bank.arms(champion(bundle))
    await answered(bank, rows(50, 5), "champion", event_time_micros=[start + 8 * day])
    last = await answered(bank, rows(1, 5), "champion", event_time_micros=[start + 20 * day])
    await recorded(bank, last.prediction_ids[0])
    examined = await bank.monitor.ExaminePeriods(
        monitor_api.ExaminePeriodsRequest(request_id=rid(), endpoint="shop"), timeout=120
    )
    reports = [PeriodReport.FromString(bank.suite.artifacts.read(each.report_digest)) for each in examined.periods]
    assert [(each.predictions, each.fallbacks) for each in reports] == [(20, 20), (80, 30), (1, 0)]
    assert [each.bundle_digest for each in reports] == ["", bundle, bundle]
    assert [[(arm.arm, arm.predictions) for arm in each.performance] for each in reports][:2] == [
        [],
        [("champion", 50)],
    ]
    assert examined.alarms == []


def _fields(declared: Fallback) -> dict[str, Any]:
    return {field.name: value for field, value in declared.ListFields()}
