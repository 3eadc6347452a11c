"""Tensors of the Open Inference Protocol to columns, and answers back: raw or typed, as the client speaks."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.tabular.v1.column_pb2 import Column
from tabular.bundle import ModelColumn
from tabular.columns import from_numpy

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
_LENGTH = struct.Struct("<I")


class TensorInvalid(InvalidArgument):
    """A tensor is not as the protocol has it, or not as the endpoint needs it."""


def columns_of(request: oip.ModelInferRequest, wanted: Sequence[ModelColumn]) -> list[Column]:
    """Return the columns of a request: one tensor per column, or one matrix in the order of the metadata.

    Raises TensorInvalid.
    """
    if request.raw_input_contents and len(request.raw_input_contents) != len(request.inputs):
        raise _invalid(
            "raw_input_contents", f"has {len(request.raw_input_contents)} entries for {len(request.inputs)} inputs"
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        field = f"inputs[{tensor.name or index}]"
        raw = request.raw_input_contents[index] if request.raw_input_contents else None
        values = _values(field, tensor, raw)
        shape = list(tensor.shape)
        if len(shape) == 2 and shape[1] != 1:
            _matrix(field, values.reshape(shape), wanted, arrays)
        elif len(shape) in (1, 2):
            arrays[tensor.name] = values
        else:
            raise _invalid(f"{field}.shape", f"is {shape}; send [rows], [rows, 1] or one matrix [rows, columns]")
    return [from_numpy(name, values) for name, values in arrays.items()]


def text_parameter(request: oip.ModelInferRequest, name: str) -> str:
    """Return a parameter as text, empty when it is not there."""
    if name not in request.parameters:
        return ""
    parameter = request.parameters[name]
    choice = parameter.WhichOneof("parameter_choice")
    return "" if choice is None else str(getattr(parameter, choice))


def fill_outputs(
    response: oip.ModelInferResponse,
    asked: Sequence[str],
    available: "dict[str, npt.NDArray[Any]]",
    *,
    raw: bool,
) -> None:
    """Add the outputs asked for, or all, raw or typed. Raises TensorInvalid for an unknown name."""
    unknown = [name for name in asked if name not in available]
    if unknown:
        raise _invalid("outputs", f"{unknown[0]!r} is unknown; there are {', '.join(available)}")
    for name in asked or available:
        values = available[name]
        datatype = "FP64" if values.dtype.kind == "f" else "INT64"
        tensor = response.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if raw:
            response.raw_output_contents.append(values.astype(_DTYPES[datatype]).tobytes())
        else:
            getattr(tensor.contents, _CONTENTS[datatype]).extend(values.reshape(-1).tolist())


def _values(field: str, tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None) -> npt.NDArray[Any]:
    count = int(np.prod(list(tensor.shape))) if tensor.shape else 0
    if any(side < 0 for side in tensor.shape):
        raise _invalid(f"{field}.shape", "a request's shape has no variable sides")
    if raw is not None and tensor.HasField("contents"):
        raise _invalid(field, "has contents although raw_input_contents are there; send one of the two")
    if tensor.datatype == "BYTES":
        texts = _raw_texts(field, raw) if raw is not None else list(tensor.contents.bytes_contents)
        values = np.empty(len(texts), dtype=object)
        try:
            values[:] = [text.decode() for text in texts]
        except UnicodeDecodeError as error:
            raise _invalid(field, "holds bytes that are not UTF-8 text") from error
    elif tensor.datatype not in _DTYPES:
        raise _invalid(f"{field}.datatype", f"{tensor.datatype!r} is not supported; send {', '.join(_DTYPES)} or BYTES")
    elif raw is not None:
        dtype = _DTYPES[tensor.datatype]
        if len(raw) != count * dtype.itemsize:
            raise _invalid(field, f"has {len(raw)} raw bytes, its shape needs {count * dtype.itemsize}")
        values = np.frombuffer(raw, dtype=dtype)
    elif tensor.datatype not in _CONTENTS:
        raise _invalid(f"{field}.datatype", f"{tensor.datatype} can only be sent raw")
    else:
        values = np.array(getattr(tensor.contents, _CONTENTS[tensor.datatype]), dtype=_DTYPES[tensor.datatype])
    if len(values) != count:
        raise _invalid(field, f"has {len(values)} values, its shape needs {count}")
    return values


def _raw_texts(field: str, raw: bytes) -> list[bytes]:
    texts, place = [], 0
    while place < len(raw):
        if place + _LENGTH.size > len(raw):
            raise _invalid(field, "its raw bytes end within a length")
        (length,) = _LENGTH.unpack_from(raw, place)
        place += _LENGTH.size
        if place + length > len(raw):
            raise _invalid(field, "its raw bytes end within an element")
        texts.append(raw[place : place + length])
        place += length
    return texts


def _matrix(
    field: str, values: npt.NDArray[Any], wanted: Sequence[ModelColumn], arrays: dict[str, npt.NDArray[Any]]
) -> None:
    if values.shape[1] != len(wanted):
        names = ", ".join(column.name for column in wanted)
        raise _invalid(f"{field}.shape", f"has {values.shape[1]} columns, the endpoint needs {len(wanted)}: {names}")
    for index, column in enumerate(wanted):
        arrays[column.name] = values[:, index]


def _invalid(field: str, what: str) -> TensorInvalid:
    return TensorInvalid(f"{field} {what}", [FieldViolation(field, what)])
