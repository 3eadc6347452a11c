"""What is unusual about rows is told with their answers, over both protocols, and stands in their records."""

import asyncio
import json
from typing import Any

import grpc.aio
import numpy as np
import pytest

from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.tabular.v1.flags_pb2 import GuardState
from tests.integration.exposition import scrape
from tests.integration.serving.credit import Bank, Rows, rows

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def bank(suite: Any) -> Bank:
    await suite.start("lineage", "registry", "monitor", "serving", metrics_port=0)
    return Bank(suite)


def unusual() -> Rows:
    """Return four applicants: one like any, one too old and from nowhere, one without an age, one at every edge."""
    part = {name: values[:4].copy() for name, values in rows(2_000, 0).items()}
    whole = rows(2_000, 0)
    for name, value in (("income", 3_000), ("debt", 4_000), ("late", 1), ("age", 40), ("months", 100)):
        part[name][:] = value
    part["region"][:] = "north"
    part["age"][1], part["region"][1] = 120, "moon"
    part["age"][2] = np.nan
    for name in ("income", "debt", "late", "age", "months"):
        part[name][3] = np.nanmax(whole[name])
    return part


async def test_flags_come_with_answers_and_stand_in_records(bank: Bank) -> None:
    await bank.open(None, guarded=True)
    answer = await bank.answers(unusual())
    assert answer.guard == GuardState.GUARD_STATE_CHECKED
    told = [(f.row, list(f.out_of_range), list(f.unseen), f.out_of_distribution) for f in answer.flags]
    assert told[:2] == [(1, ["age"], ["region"], told[0][3]), (2, [], ["age"], told[1][3])]
    assert told[2:] == [(3, [], [], True)]
    records = [await recorded(bank, prediction_id) for prediction_id in answer.prediction_ids]
    assert [record.guard for record in records] == [GuardState.GUARD_STATE_CHECKED] * 4
    assert [record.HasField("flags") for record in records] == [False, True, True, True]
    assert [record.flags for record in records[1:]] == list(answer.flags)

    response = await inferred(bank, unusual())
    assert response.parameters["guard"].string_param == "checked"
    assert response.parameters["flagged_rows"].int64_param == 3
    flags = json.loads(response.parameters["flags"].string_param)
    assert [(each["row"], each["out_of_range"], each["unseen"]) for each in flags] == [f[:3] for f in told]

    (counters,) = (await bank.serving.GetCounters(serving_api.GetCountersRequest())).endpoints
    assert (counters.out_of_range, counters.unseen, counters.unguarded) == (2, 4, 0)
    assert counters.out_of_distribution == 2 * sum(flag for *_, flag in told)
    page = await asyncio.to_thread(scrape, bank.suite.servers["serving"].metrics_address)
    assert page.value("lineal_predictions_flagged_total", endpoint="shop", flag="unseen") == 4


async def test_nothing_is_known_of_rows_whose_bundle_has_no_guard(bank: Bank) -> None:
    await bank.open(None)
    answer = await bank.answers(unusual())
    assert (answer.guard, list(answer.flags)) == (GuardState.GUARD_STATE_UNKNOWN, [])
    assert (await recorded(bank, answer.prediction_ids[1])).guard == GuardState.GUARD_STATE_UNKNOWN
    response = await inferred(bank, unusual())
    assert response.parameters["guard"].string_param == "unknown"
    assert not {"flagged_rows", "flags"} & set(response.parameters)
    (counters,) = (await bank.serving.GetCounters(serving_api.GetCountersRequest())).endpoints
    assert (counters.unguarded, counters.out_of_range, counters.unseen) == (8, 0, 0)


async def recorded(bank: Bank, prediction_id: str) -> Any:
    """Wait until monitor has a record."""
    async with asyncio.timeout(60):
        while True:
            try:
                found = await bank.monitor.GetPrediction(monitor_api.GetPredictionRequest(prediction_id=prediction_id))
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(0.05)  # between two questions for a record on its way
            else:
                return found.prediction


async def inferred(bank: Bank, part: Rows) -> Any:
    """Ask over the Open Inference Protocol."""
    request = oip.ModelInferRequest(model_name="shop")
    for name, values in part.items():
        texts = values.dtype == object
        tensor = request.inputs.add(name=name, datatype="BYTES" if texts else "FP64", shape=[len(values)])
        if texts:
            tensor.contents.bytes_contents.extend(text.encode() for text in values)
        else:
            tensor.contents.fp64_contents.extend(values)
    async with grpc.aio.insecure_channel(bank.suite.address("serving")) as channel:
        return await GRPCInferenceServiceStub(channel).ModelInfer(request)
