"""Tensors of the Open Inference Protocol to columns, and answers back: raw or typed, as the client speaks."""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.serving.v1.serving_service_pb2 import PredictResponse
from lineal.api.tabular.v1.flags_pb2 import GuardState
from services.serving.input_limits import too_long
from tabular.bundle import ModelColumn

_DTYPES: dict[str, Any] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
# The arrays that columns are given on as: truth values as numbers, and whole numbers as wide as they come.
_ARRAYS: dict[str, Any] = {
    name: np.dtype("f8") if dtype.kind in "fb" else np.dtype("u8") if name == "UINT64" else np.dtype("i8")
    for name, dtype in _DTYPES.items()
}
# Their typed contents are wider than they are.
_NARROW = {name for name, dtype in _DTYPES.items() if dtype.kind in "iu" and dtype.itemsize <= 2}
_TEXT = np.dtype(object)
_LENGTH = struct.Struct("<I")
_CHECKED = GuardState.GUARD_STATE_CHECKED
# MLServer's names of what a tensor or a request holds. Datatypes say the same here, so nothing is decided by them.
_TENSOR_CONTENT = ("np", "str", "datetime")
_REQUEST_CONTENT = ("pd", "np", "str")
# What the name of a null mask has after that of its column; the protocol itself knows no nulls.
_NULL = ".null"


class TensorInvalid(InvalidArgument):
    """A tensor is not as the protocol has it, or not as the endpoint needs it."""


class _TensorFaultError(Exception):
    """What is wrong with the tensor at hand, and with which part of it."""

    def __init__(self, what: str, part: str = "") -> None:
        self.what = what
        self.part = part


def columns_of(
    request: oip.ModelInferRequest, wanted: Callable[[int], Sequence[ModelColumn]], text_bytes: int
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a request: one tensor per column, or one matrix, of which `wanted` names the columns.

    A tensor `<column>.null` of BOOL says which rows of a column are null. Raises TensorInvalid, also for a raw text of
    more than `text_bytes`.
    """
    if request.parameters and (content := text_parameter(request, "content_type")) not in ("", *_REQUEST_CONTENT):
        remedy = f"is {content!r}; send pd (a tensor per column), np (a matrix), or none"
        raise _invalid("parameters.content_type", remedy)
    inputs = request.inputs
    raws = request.raw_input_contents
    if raws and len(raws) != len(inputs):
        raise _invalid("raw_input_contents", f"has {len(raws)} entries for {len(inputs)} inputs")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for index, tensor in enumerate(inputs):
        name, shape = tensor.name, tensor.shape[:]
        try:
            values = _values(tensor, shape, raws[index] if raws else None, text_bytes)
            if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
                if name in arrays:
                    raise _TensorFaultError("is there twice; send each column once")
                arrays[name] = values
            elif len(shape) == 2:
                _matrix(values.reshape(shape), wanted(shape[1]), arrays)
            else:
                raise _TensorFaultError(f"is {shape}; send [rows], [rows, 1] or one matrix [rows, columns]", ".shape")
        except _TensorFaultError as fault:
            raise _invalid(f"inputs[{name or index}]{fault.part}", fault.what) from None
    for name in [name for name in arrays if name.endswith(_NULL)]:
        _set_nulls(request, name, arrays)
    return arrays


def text_parameter(request: oip.ModelInferRequest, name: str) -> str:
    """Return a parameter as text, empty when it is not there."""
    parameter = request.parameters.get(name)
    if parameter is None or parameter.string_param:
        return "" if parameter is None else parameter.string_param
    choice = parameter.WhichOneof("parameter_choice")
    return "" if choice is None else str(getattr(parameter, choice))


def add_flags(response: oip.ModelInferResponse, answer: PredictResponse) -> None:
    """Add what is unusual about rows: `guard`, `flagged_rows` and, where there are some, `flags` as JSON.

    Where a fallback has answered, `fallback_cause` and `fallback_reason`.
    """
    if answer.fallback_cause:
        response.parameters["fallback_cause"].string_param = answer.fallback_cause
        response.parameters["fallback_reason"].string_param = answer.fallback_reason
        return
    checked = answer.guard == _CHECKED
    response.parameters["guard"].string_param = "checked" if checked else "unknown"
    if checked:
        response.parameters["flagged_rows"].int64_param = len(answer.flags)
    if answer.flags:
        flags = [
            {
                "row": each.row,
                "out_of_range": list(each.out_of_range),
                "unseen": list(each.unseen),
                "rarity": each.rarity,
                "out_of_distribution": each.out_of_distribution,
            }
            for each in answer.flags
        ]
        response.parameters["flags"].string_param = json.dumps(flags)


@dataclass(frozen=True)
class Output:
    """A tensor of an answer: FP64 or INT64, its values row after row."""

    datatype: str
    shape: Sequence[int]
    values: Sequence[Any]


def fill_outputs(
    response: oip.ModelInferResponse, asked: Sequence[str], available: Mapping[str, Output], *, raw: bool
) -> None:
    """Add the outputs asked for, or all, raw or typed. Raises TensorInvalid for an unknown name."""
    for name in asked or available:
        output = available.get(name)
        if output is None:
            raise _invalid("outputs", f"{name!r} is unknown; there are {', '.join(available)}")
        datatype, values = output.datatype, output.values
        tensor = response.outputs.add(name=name, datatype=datatype, shape=output.shape)
        if raw:
            response.raw_output_contents.append(np.array(values, _DTYPES[datatype]).tobytes())
        elif datatype == "FP64":
            tensor.contents.fp64_contents.extend(values)
        else:
            tensor.contents.int64_contents.extend(values)


def _values(
    tensor: oip.ModelInferRequest.InferInputTensor, shape: Sequence[int], raw: bytes | None, text_bytes: int
) -> npt.NDArray[Any]:
    """Return the values of a tensor as `tabular.columns.to_numpy` would: doubles, int64 or texts."""
    if shape and min(shape) < 0:
        raise _TensorFaultError("a request's shape has no variable sides", ".shape")
    datatype, parameters = tensor.datatype, tensor.parameters
    if parameters:
        _check_content(datatype, parameters.get("content_type"))
    count = math.prod(shape) if shape else 0
    if raw is not None:
        values = _raw_values(tensor, datatype, count, raw, text_bytes)
    elif datatype == "BYTES":
        values = _texts(tensor.contents.bytes_contents[:])
    elif datatype in _CONTENTS:
        sent = getattr(tensor.contents, _CONTENTS[datatype])
        # `np.array` would look for five protocols of arrays first, which takes longer than to read a few values.
        values = np.fromiter(sent, _ARRAYS[datatype], len(sent))
        if datatype in _NARROW:
            _check_range(datatype, values)
    elif datatype in _DTYPES:
        raise _TensorFaultError(f"{datatype} can only be sent raw", ".datatype")
    else:
        raise _unsupported(datatype)
    if len(values) != count:
        raise _TensorFaultError(f"has {len(values)} values, its shape needs {count}")
    return values


def _raw_values(
    tensor: oip.ModelInferRequest.InferInputTensor, datatype: str, count: int, raw: bytes, text_bytes: int
) -> npt.NDArray[Any]:
    if tensor.HasField("contents"):
        raise _TensorFaultError("has contents although raw_input_contents are there; send one of the two")
    if datatype == "BYTES":
        return _texts(_raw_texts(raw, text_bytes))
    if datatype not in _DTYPES:
        raise _unsupported(datatype)
    dtype = _DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise _TensorFaultError(f"has {len(raw)} raw bytes, its shape needs {count * dtype.itemsize}")
    return np.frombuffer(raw, dtype=dtype).astype(_ARRAYS[datatype], copy=False)


def _unsupported(datatype: str) -> _TensorFaultError:
    return _TensorFaultError(f"{datatype!r} is not supported; send {', '.join(_DTYPES)} or BYTES", ".datatype")


def _check_content(datatype: str, parameter: oip.InferParameter | None) -> None:
    content = "" if parameter is None else parameter.string_param
    if content and content not in _TENSOR_CONTENT:
        known = ", ".join(_TENSOR_CONTENT)
        raise _TensorFaultError(f"{content!r} is not supported; send {known}, or none", ".parameters.content_type")
    if content in ("str", "datetime") and datatype != "BYTES":
        raise _TensorFaultError(f"{content!r} needs BYTES, the tensor has {datatype}", ".parameters.content_type")


def _set_nulls(request: oip.ModelInferRequest, name: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Take a null mask out of the columns and set the rows null that it names."""
    mask, column = arrays.pop(name), name.removesuffix(_NULL)
    place = f"inputs[{name}]"
    if any(tensor.name == name and tensor.datatype != "BOOL" for tensor in request.inputs):
        raise _invalid(f"{place}.datatype", "is a null mask; send BOOL, true where null")
    if column not in arrays:
        raise _invalid(place, f"is a null mask without a column {column!r}; send the column, too")
    values = arrays[column]
    if len(mask) != len(values):
        raise _invalid(f"{place}.shape", f"has {len(mask)} rows, {column!r} has {len(values)}")
    # As `tabular.columns.to_numpy` has nulls. A copy, since raw values are the request's own bytes.
    texts = values.dtype == object
    arrays[column] = values = values.astype(object if texts else np.float64)
    values[mask.astype(bool)] = None if texts else np.nan


def _check_range(datatype: str, values: npt.NDArray[Any]) -> None:
    """Refuse what a typed tensor of small integers cannot hold: its contents are wider than its datatype."""
    known = np.iinfo(_DTYPES[datatype])
    if len(values) and (values.min() < known.min or values.max() > known.max):
        raise _TensorFaultError(f"has values outside of {datatype}: {known.min} to {known.max}")


def _texts(sent: Sequence[bytes]) -> npt.NDArray[Any]:
    try:
        return np.fromiter(map(bytes.decode, sent), _TEXT, len(sent))
    except UnicodeDecodeError:
        raise _TensorFaultError("holds bytes that are not UTF-8 text") from None


def _raw_texts(raw: bytes, text_bytes: int) -> list[bytes]:
    texts, place, end = [], 0, len(raw)
    while place < end:
        start = place + _LENGTH.size
        if start > end:
            raise _TensorFaultError("its raw bytes end within a length")
        (length,) = _LENGTH.unpack_from(raw, place)
        if length > text_bytes:
            raise _TensorFaultError(too_long(length, text_bytes))
        place = start + length
        texts.append(raw[start:place])
    if place > end:
        raise _TensorFaultError("its raw bytes end within an element")
    return texts


def _matrix(values: npt.NDArray[Any], wanted: Sequence[ModelColumn], arrays: dict[str, npt.NDArray[Any]]) -> None:
    if values.shape[1] != len(wanted):
        names = ", ".join(column.name for column in wanted)
        raise _TensorFaultError(f"has {values.shape[1]} columns, the endpoint needs {len(wanted)}: {names}", ".shape")
    for index, column in enumerate(wanted):
        arrays[column.name] = values[:, index]


def _invalid(field: str, what: str) -> TensorInvalid:
    return TensorInvalid(f"{field} {what}", [FieldViolation(field, what)])
