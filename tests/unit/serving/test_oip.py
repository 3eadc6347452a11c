"""Nulls and content types of tensors, which the protocol leaves to its servers."""

import math
from typing import Any

import numpy as np
import pytest

from lineal.api.inference.v2 import inference_service_pb2 as oip
from services.serving.oip import TensorInvalid, columns_of
from tabular.bundle import ModelColumn

COLUMNS = [ModelColumn("amount", "numeric"), ModelColumn("count", "numeric")]
TEXT_BYTES = 10


def request_of(tensors: dict[str, tuple[str, list[Any]]], *, raw: bool = False) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="shop")
    for name, (datatype, values) in tensors.items():
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        if raw:
            packed = {"BOOL": "?", "INT64": "<i8", "FP64": "<f8"}.get(datatype)
            request.raw_input_contents.append(
                np.array(values, dtype=packed).tobytes()
                if packed
                else b"".join(len(each).to_bytes(4, "little") + each for each in values)
            )
        else:
            field = {"BOOL": "bool", "INT64": "int64", "FP64": "fp64", "BYTES": "bytes"}[datatype]
            getattr(tensor.contents, f"{field}_contents").extend(values)
    return request


@pytest.mark.parametrize("raw", [False, True])
def test_a_mask_sets_rows_of_any_column_null(raw: bool) -> None:
    mask = ("BOOL", [False, True, False])
    request = request_of(
        {
            "count.null": mask,
            "count": ("INT64", [1, 0, 3]),
            "shop": ("BYTES", [b"a", b"", b""]),
            "shop.null": mask,
            "amount": ("FP64", [0.5, 0.0, math.nan]),
            "amount.null": mask,
        },
        raw=raw,
    )
    found = columns_of(request, lambda _: COLUMNS, TEXT_BYTES)
    assert sorted(found) == ["amount", "count", "shop"]
    np.testing.assert_array_equal(found["count"], [1.0, np.nan, 3.0])
    np.testing.assert_array_equal(found["amount"], [0.5, np.nan, np.nan])
    # An empty text is a text; only the mask makes it null.
    assert found["shop"].tolist() == ["a", None, ""]


def test_a_mask_may_name_a_column_of_a_matrix() -> None:
    request = oip.ModelInferRequest(model_name="shop")
    matrix = request.inputs.add(name="m", datatype="INT64", shape=[2, 2])
    matrix.contents.int64_contents.extend([1, 2, 3, 4])
    mask = request.inputs.add(name="count.null", datatype="BOOL", shape=[2, 1])
    mask.contents.bool_contents.extend([True, False])
    found = columns_of(request, lambda _: COLUMNS, TEXT_BYTES)
    np.testing.assert_array_equal(found["count"], [np.nan, 4.0])
    np.testing.assert_array_equal(found["amount"], [1, 3])


@pytest.mark.parametrize(
    ("tensors", "field", "text"),
    [
        ({"shop.null": ("BOOL", [True])}, "inputs[shop.null]", "without a column 'shop'; send the column, too"),
        (
            {"shop": ("BYTES", [b"a"]), "shop.null": ("INT64", [1])},
            "inputs[shop.null].datatype",
            "send BOOL, true where null",
        ),
        (
            {"shop": ("BYTES", [b"a"]), "shop.null": ("BOOL", [True, False])},
            "inputs[shop.null].shape",
            "has 2 rows, 'shop' has 1",
        ),
    ],
)
def test_a_wrong_mask_is_named(tensors: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(TensorInvalid, match="null") as refused:
        columns_of(request_of(tensors), lambda _: COLUMNS, TEXT_BYTES)
    assert [violation.field for violation in refused.value.violations] == [field]
    assert text in str(refused.value)


@pytest.mark.parametrize("content", ["pd", "np"])
def test_content_types_of_mlservers_clients_are_taken(content: str) -> None:
    request = request_of({"shop": ("BYTES", [b"a"]), "amount": ("FP64", [1.0])})
    request.parameters["content_type"].string_param = content
    request.inputs[0].parameters["content_type"].string_param = "str"
    request.inputs[1].parameters["content_type"].string_param = "np"
    assert columns_of(request, lambda _: COLUMNS, TEXT_BYTES)["shop"].tolist() == ["a"]


@pytest.mark.parametrize(
    ("content", "text"),
    [("base64", "'base64' is not supported; send np, str, datetime, or none"), ("str", "'str' needs BYTES")],
)
def test_other_content_types_are_refused(content: str, text: str) -> None:
    request = request_of({"amount": ("FP64", [1.0])})
    request.inputs[0].parameters["content_type"].string_param = content
    with pytest.raises(TensorInvalid) as refused:
        columns_of(request, lambda _: COLUMNS, TEXT_BYTES)
    assert [violation.field for violation in refused.value.violations] == ["inputs[amount].parameters.content_type"]
    assert text in str(refused.value)
    request = request_of({"amount": ("FP64", [1.0])})
    request.parameters["content_type"].string_param = "json"
    with pytest.raises(TensorInvalid, match="is 'json'; send pd"):
        columns_of(request, lambda _: COLUMNS, TEXT_BYTES)


def test_a_raw_text_that_is_too_long_is_named() -> None:
    columns_of(request_of({"shop": ("BYTES", [b"a", b"x" * 10])}, raw=True), lambda _: COLUMNS, TEXT_BYTES)
    request = request_of({"shop": ("BYTES", [b"a", b"x" * 11])}, raw=True)
    with pytest.raises(TensorInvalid, match="has a text of 11 bytes; send at most 10 ") as refused:
        columns_of(request, lambda _: COLUMNS, TEXT_BYTES)
    assert [violation.field for violation in refused.value.violations] == ["inputs[shop]"]
