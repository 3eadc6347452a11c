"""A caller has the rows that the endpoint's limits allow; others have theirs."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from lineal.api.registry.v1.endpoint_pb2 import CallerLimits
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from tests.integration.exposition import scrape
from tests.integration.serving.credit import Bank, by, rows, sent
from tests.integration.serving.test_flags import inferred
from tests.integration.test_predictions import rid

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def bank(suite: Any) -> Bank:
    await suite.start("lineage", "registry", "monitor", "serving", metrics_port=0)
    return Bank(suite)


def asked(count: int) -> serving_api.PredictRequest:
    return serving_api.PredictRequest(endpoint="shop", request_id=rid(), columns=sent(rows(count, 5)))


async def test_a_caller_over_the_rate_is_told_when_to_come_back_and_others_are_answered(bank: Bank) -> None:
    await bank.open(None, limits=CallerLimits(rows_per_second=1, burst_rows=1_000))
    first = asked(900)
    answer = await bank.serving.Predict(first, metadata=by("ada"))
    with pytest.raises(grpc.aio.AioRpcError, match="'person:ada' asks 'shop' for more than rows_per_second 1 ") as over:
        await bank.serving.Predict(asked(500), metadata=by("ada"))
    assert over.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(over.value.trailing_metadata())
    assert "grpc-retry-pushback-ms" in trailing
    info, retry = ErrorInfo(), RetryInfo()
    for detail in Status.FromString(trailing["grpc-status-details-bin"]).details:
        detail.Unpack(info) if detail.Is(ErrorInfo.DESCRIPTOR) else detail.Unpack(retry)
    assert info.reason == "RATE_EXCEEDED"
    assert 200 < retry.retry_delay.ToTimedelta().total_seconds() <= 400
    # Asking again for what was answered costs nothing.
    assert await bank.serving.Predict(first, metadata=by("ada")) == answer
    assert len((await bank.serving.Predict(asked(500), metadata=by("bob"))).scores) == 500
    with pytest.raises(grpc.aio.AioRpcError, match="1,001 rows are more than 'shop' allows a caller at once") as never:
        await bank.serving.Predict(asked(1_001), metadata=by("cem"))
    assert never.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    # Explanations are charged alike.
    request = serving_api.ExplainRequest(endpoint="shop", columns=sent(rows(500, 5)))
    with pytest.raises(grpc.aio.AioRpcError) as explained:
        await bank.serving.Explain(request, metadata=by("ada"))
    assert explained.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    (counters,) = (await bank.serving.GetCounters(serving_api.GetCountersRequest())).endpoints
    assert (counters.served, counters.limited_requests) == (1_400, 3)
    page = await asyncio.to_thread(scrape, bank.suite.servers["serving"].metrics_address)
    assert page.value("lineal_requests_limited_total", endpoint="shop") == 3


async def test_a_budget_is_the_callers_for_the_day(bank: Bank) -> None:
    await bank.open(None, limits=CallerLimits(rows_per_day=100))
    await bank.serving.Predict(asked(80), metadata=by("ada"))
    # A stream is charged as its caller's requests are.
    stream = bank.serving.StreamPredictions(metadata=by("ada"), timeout=60)
    for count in (15, 10, 5):
        await stream.write(serving_api.StreamPredictionsRequest(request=asked(count)))
    answers = [await stream.read() for _ in range(3)]
    await stream.done_writing()
    assert [len(answer.response.scores) for answer in answers] == [15, 0, 5]
    status = Status.FromString(answers[1].error)
    assert "has had 95 of rows_per_day 100 of 'shop' from this replica, 10 more are too many" in status.message
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def test_a_request_that_is_too_large_is_refused_with_its_limit_over_both_protocols(suite: Any) -> None:
    await suite.start("lineage", "registry", "monitor")
    await suite.start("serving", max_rows=5, max_columns=8, max_text_bytes=50)
    bank = Bank(suite)
    await bank.open(None)
    assert len((await bank.answers(rows(5, 5))).scores) == 5
    with pytest.raises(
        grpc.aio.AioRpcError, match=r"columns\[income\] has 6 rows; send at most 5 at a time"
    ) as refused:
        await bank.answers(rows(6, 5))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    long = rows(1, 5) | {"region": np.array(["x" * 51], dtype=object)}
    with pytest.raises(grpc.aio.AioRpcError, match=r"columns\[region\] has a text of 51 bytes"):
        await bank.answers(long)
    with pytest.raises(grpc.aio.AioRpcError, match=r"inputs\[income\]\.shape has 6 rows"):
        await inferred(bank, rows(6, 5))
    with pytest.raises(grpc.aio.AioRpcError, match=r"inputs\[region\] has a text of 51 bytes"):
        await inferred(bank, long)
