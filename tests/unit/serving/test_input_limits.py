from typing import Any

import numpy as np
import pytest

from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.serving.v1 import serving_service_pb2 as api
from lineal.api.tabular.v1.column_pb2 import Column
from services.serving.input_limits import InputLimits, RequestTooLarge
from tabular.columns import from_numpy, length

LIMITS = InputLimits(rows=5, columns=3, text_bytes=8)


def asked(*columns: Column, **fields: Any) -> api.PredictRequest:
    return api.PredictRequest(endpoint="shop", columns=columns, **fields)


def texts(name: str, *values: str) -> Column:
    return from_numpy(name, np.array(values, dtype=object))


def test_what_is_at_the_limits_passes() -> None:
    columns = [from_numpy(name, np.arange(5.0)) for name in "ab"] + [texts("c", *["12345678"] * 5)]
    LIMITS.check(asked(*columns, routing_key="12345678", event_time_micros=[1] * 5))


@pytest.mark.parametrize(
    ("request_", "field", "told"),
    [
        (asked(from_numpy("a", np.arange(6.0))), "columns[a]", "has 6 rows; send at most 5 at a time"),
        (asked(from_numpy("a", np.arange(6))), "columns[a]", "has 6 rows"),
        (asked(Column(name="a", null_rows=range(6))), "columns[a]", "has 6 rows"),
        (asked(event_time_micros=[0] * 6), "event_time_micros", "has 6 rows"),
        (asked(*(from_numpy(name, np.ones(1)) for name in "abcd")), "columns", "has 4 columns; send at most 3"),
        (asked(texts("a", "x", "123456789")), "columns[a]", "has a text of 9 bytes; send at most 8"),
        # Five letters, of two bytes each.
        (asked(texts("a", "äöüäö")), "columns[a]", "has a text of 10 bytes"),
        (asked(texts("n" * 200, "a")), f"columns[{'n' * 100}].name", "has a text of 200 bytes"),
        (asked(routing_key="123456789"), "routing_key", "has a text of 9 bytes"),
    ],
)
def test_what_is_too_large_is_named_with_its_limit(request_: api.PredictRequest, field: str, told: str) -> None:
    with pytest.raises(RequestTooLarge, match=told) as refused:
        LIMITS.check(request_)
    assert [violation.field for violation in refused.value.violations] == [field]
    assert "(LINEAL_SERVING_MAX_" in str(refused.value)


def tensors(count: int = 1, datatype: str = "FP64", shape: tuple[int, ...] = (1,), **contents: Any) -> Any:
    request = oip.ModelInferRequest(model_name="shop")
    for number in range(count):
        tensor = request.inputs.add(name=f"t{number}", datatype=datatype, shape=shape)
        tensor.contents.MergeFrom(oip.InferTensorContents(**contents))
    return request


@pytest.mark.parametrize(
    ("request_", "field", "told"),
    [
        (tensors(shape=(6,)), "inputs[t0].shape", "has 6 rows; send at most 5 at a time"),
        (tensors(shape=(1, 4)), "inputs[t0].shape", "has 4 columns; send at most 3"),
        (tensors(count=4), "inputs", "has 4 columns"),
        (tensors(datatype="BYTES", bytes_contents=[b"123456789"]), "inputs[t0]", "has a text of 9 bytes"),
    ],
)
def test_tensors_that_are_too_large_are_named_with_their_limit(request_: Any, field: str, told: str) -> None:
    with pytest.raises(RequestTooLarge, match=told) as refused:
        LIMITS.check_tensors(request_)
    assert [violation.field for violation in refused.value.violations] == [field]


def test_a_long_parameter_is_too_large() -> None:
    request = tensors(shape=(5, 3))
    LIMITS.check_tensors(request)
    request.parameters["routing_key"].string_param = "123456789"
    with pytest.raises(RequestTooLarge, match="has a text of 9 bytes"):
        LIMITS.check_tensors(request)


def test_what_is_passed_by_its_size_alone_is_within_the_limits() -> None:
    chance, limits = np.random.default_rng(0), InputLimits(rows=40, columns=40, text_bytes=40)
    passed = 0
    for _ in range(2_000):
        nulls = Column(name="n" * int(chance.integers(0, 50)), null_rows=range(int(chance.integers(0, 50))))
        long = texts("t", "x" * int(chance.integers(0, 50)))
        truths = from_numpy("b", np.ones(int(chance.integers(1, 50))) > 0)
        chosen = [column for column in (nulls, long, truths) if chance.random() < 0.4]
        many = int(chance.integers(0, 45)) if chance.random() < 0.1 else 0
        request = asked(*chosen, *[Column()] * many)
        try:
            limits.check(request)
        except RequestTooLarge:
            continue
        passed += 1
        assert len(request.columns) <= 40
        for column in request.columns:
            assert max(length(column), len(column.null_rows)) <= 40
            assert all(len(text) <= 40 for text in (column.name, *column.strings.values))
    assert 500 < passed < 1_900
