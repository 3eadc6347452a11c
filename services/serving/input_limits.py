"""How large a request may be, looked at before anything of it is read as features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.serving.v1 import serving_service_pb2 as api
from tabular.columns import length

_NAME_CHARACTERS = 100
# A character takes as many bytes of UTF-8 at most.
_WIDEST = 4
# What brings columns.
Columned = api.PredictRequest | api.ExplainRequest | api.FindCounterfactualsRequest


class RequestTooLarge(InvalidArgument):
    """A request has more rows, more columns or a longer text than this server reads."""


@dataclass(frozen=True)
class InputLimits:
    """Rows and columns that a request may have, and bytes of UTF-8 that a text of it may have."""

    rows: int
    columns: int
    text_bytes: int

    def check(self, request: Columned) -> None:
        """Raise RequestTooLarge, naming each field and its limit."""
        if request.ByteSize() > min(self.columns, self._part_bytes):
            _refuse(list(self._found(request)))

    def check_tensors(self, request: oip.ModelInferRequest) -> None:
        """Raise RequestTooLarge, naming each field and its limit."""
        if request.ByteSize() > min(self.columns, self._part_bytes):
            _refuse(list(self._found_in_tensors(request)))

    @property
    def _part_bytes(self) -> int:
        """A column of so many bytes cannot be over a limit: a row, a column and a letter take one at least."""
        return min(self.rows, self.text_bytes)

    def _found(self, request: Columned) -> Iterator[FieldViolation]:
        yield from self._texts("routing_key", [request.routing_key])
        yield from self._columns("columns", len(request.columns))
        yield from self._rows("event_time_micros", len(request.event_time_micros))
        for column in request.columns[: self.columns]:
            if column.ByteSize() <= self._part_bytes:
                continue
            place = f"columns[{column.name[:_NAME_CHARACTERS]}]"
            yield from self._texts(f"{place}.name", [column.name])
            yield from self._rows(place, max(length(column), len(column.null_rows)))
            yield from self._texts(place, column.strings.values)

    def _found_in_tensors(self, request: oip.ModelInferRequest) -> Iterator[FieldViolation]:
        for name, parameter in request.parameters.items():
            yield from self._texts(f"parameters.{name[:_NAME_CHARACTERS]}", [parameter.string_param])
        yield from self._columns("inputs", len(request.inputs))
        for index, tensor in enumerate(request.inputs[: self.columns]):
            shape, large = tensor.shape[:], tensor.ByteSize() > self._part_bytes
            if not large and shape[:1] <= [self.rows] and shape[1:2] <= [self.columns]:
                continue
            place = f"inputs[{tensor.name[:_NAME_CHARACTERS] or index}]"
            yield from self._rows(f"{place}.shape", *shape[:1])
            yield from self._columns(f"{place}.shape", *shape[1:2])
            # Raw texts are cut apart by `services/serving/oip.py`, which knows this limit.
            if large:
                yield from self._texts(f"{place}.name", [tensor.name])
                yield from self._lengths(place, tensor.contents.bytes_contents)

    def _rows(self, field: str, rows: int = 0) -> Iterator[FieldViolation]:
        if rows > self.rows:
            told = f"has {rows:,} rows; send at most {self.rows:,} at a time"
            yield FieldViolation(field, f"{told} (LINEAL_SERVING_MAX_ROWS)")

    def _columns(self, field: str, columns: int = 0) -> Iterator[FieldViolation]:
        if columns > self.columns:
            told = f"has {columns:,} columns; send at most {self.columns:,}"
            yield FieldViolation(field, f"{told} (LINEAL_SERVING_MAX_COLUMNS)")

    def _texts(self, field: str, texts: Sequence[str]) -> Iterator[FieldViolation]:
        long = [text for text in texts if len(text) * _WIDEST > self.text_bytes]
        yield from self._lengths(field, [text.encode() for text in long])

    def _lengths(self, field: str, texts: Sequence[bytes]) -> Iterator[FieldViolation]:
        longest = max(map(len, texts), default=0)
        if longest > self.text_bytes:
            yield FieldViolation(field, too_long(longest, self.text_bytes))


def too_long(longest: int, most: int) -> str:
    """Return what is wrong with a text, and what to do; both are bytes of UTF-8."""
    return f"has a text of {longest:,} bytes; send at most {most:,} (LINEAL_SERVING_MAX_TEXT_BYTES)"


def _refuse(found: Sequence[FieldViolation]) -> None:
    if found:
        raise RequestTooLarge(f"the request is too large: {found[0].field} {found[0].description}", found)
