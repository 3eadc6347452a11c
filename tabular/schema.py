"""Bring rows from outside into the form that a dataset declares.

Only lossless changes are made: integers to doubles, wider or dictionary-coded types to the plain ones, text that reads
as the declared type, any zone to UTC. Everything else is named with what to do about it.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType, Sensitivity
from tabular.columns import TIMESTAMP

ARROW_TYPES: dict[int, pa.DataType] = {
    FieldType.FIELD_TYPE_STRING: pa.string(),
    FieldType.FIELD_TYPE_INT64: pa.int64(),
    FieldType.FIELD_TYPE_FLOAT64: pa.float64(),
    FieldType.FIELD_TYPE_BOOL: pa.bool_(),
    FieldType.FIELD_TYPE_TIMESTAMP: TIMESTAMP,
}
_WORDS = {
    FieldType.FIELD_TYPE_STRING: "text",
    FieldType.FIELD_TYPE_INT64: "integers",
    FieldType.FIELD_TYPE_FLOAT64: "numbers",
    FieldType.FIELD_TYPE_BOOL: "true or false",
    FieldType.FIELD_TYPE_TIMESTAMP: "timestamps with a time zone",
}


_ONE = {
    FieldType.FIELD_TYPE_INT64: "a whole number",
    FieldType.FIELD_TYPE_FLOAT64: "a number",
    FieldType.FIELD_TYPE_BOOL: "true or false",
    FieldType.FIELD_TYPE_TIMESTAMP: "a time with its zone, such as 2024-05-01T12:00:00Z",
}
_SHOWN = 60
# What every text looks like that Arrow reads as an instant or a number; not all that look so are one.
_NUMBER = r"^[\s+.-]*(\d|(?i:inf|nan))"
_SHAPES = {
    TIMESTAMP: r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[ T]([01]\d|2[0-4]).*(Z|[+-]\d{2}(:?\d{2})?)$",
    pa.int64(): _NUMBER,
    pa.float64(): _NUMBER,
}
_PARTS = 8


class Violation(NamedTuple):
    """What is wrong in one place: the path of a field or the name of a column, and a text with the remedy."""

    field: str
    description: str


class SchemaMismatch(ValueError):
    """A table does not have the declared columns; `violations` names each that is wrong."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


def sent_schema(dataset: Dataset) -> pa.Schema:
    """Return the Arrow schema of a dataset's rows as they are sent."""
    return pa.schema([pa.field(field.name, ARROW_TYPES[field.type]) for field in dataset.fields])


def arrow_schema(dataset: Dataset) -> pa.Schema:
    """Return the Arrow schema of a dataset's rows as they are kept: protected attributes are in the vault alone."""
    vaulted = set(protected(dataset))
    return pa.schema([field for field in sent_schema(dataset) if field.name not in vaulted])


def protected(dataset: Dataset) -> list[str]:
    """Return the columns that are protected attributes, in order."""
    tag = Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE
    return [field.name for field in dataset.fields if field.sensitivity == tag]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ` (did you mean 'carrier'?)`, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1) or [other for other in known if other.lower() == name.lower()]
    return f" (did you mean {close[0]!r}?)" if close else ""


class Normalised(NamedTuple):
    """Rows in their declared form.

    `unreadable` says for a row and a column why a value is null here: it did not read as the declared type.
    """

    table: pa.Table
    unreadable: Mapping[int, Mapping[str, str]]


def normalise(table: pa.Table, dataset: Dataset) -> Normalised:
    """Return the declared columns, in order and in their types; NaN becomes null.

    Single values that do not read are told by row. Raises SchemaMismatch naming every column that is unknown, missing,
    twice there, or holds nothing that reads as its type.
    """
    fields = {field.name: field for field in dataset.fields}
    violations = [
        Violation(name, f"{dataset.name} has no such column{did_you_mean(name, fields)}; leave it out or declare it")
        for name in table.column_names
        if name not in fields
    ]
    violations += [
        Violation(name, "is in the batch more than once; send it once")
        for name in sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    ]
    unknown = [name for name in table.column_names if name not in fields]
    violations += [
        Violation(name, f"is missing in the batch{did_you_mean(name, unknown)}; send it, with nulls where unknown")
        for name in fields
        if name not in table.column_names
    ]
    if violations:
        raise SchemaMismatch(violations)
    arrays = []
    unreadable: dict[int, dict[str, str]] = {}
    for field in dataset.fields:
        try:
            values, reasons = _convert(table[field.name], field)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            violations.append(Violation(field.name, str(error)))
            continue
        arrays.append(values)
        for row, reason in reasons.items():
            unreadable.setdefault(row, {})[field.name] = reason
    if violations:
        raise SchemaMismatch(violations)
    return Normalised(pa.table(arrays, schema=sent_schema(dataset)), unreadable)


def _convert(values: pa.ChunkedArray, field: Field) -> tuple[pa.ChunkedArray, dict[int, str]]:
    target = ARROW_TYPES[field.type]
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        values = values.cast(kind)
    values = _without_nan(values)
    if kind == target or pa.types.is_null(kind):
        return values.cast(target), {}
    if _is_text(kind):
        # An empty cell of a CSV column that was read as text.
        values = pc.if_else(pc.equal(pc.utf8_trim_whitespace(values), ""), pa.scalar(None, type=kind), values)
    elif not _may_convert(kind, field.type):
        raise pa.ArrowInvalid(f"holds {kind}, declared is {_WORDS[field.type]}; {_remedy(kind, field.type)}")
    try:
        return _without_nan(values.cast(target)), {}
    except pa.ArrowInvalid:
        return _by_value(values, field, target)


def _by_value(values: pa.ChunkedArray, field: Field, target: pa.DataType) -> tuple[pa.ChunkedArray, dict[int, str]]:
    different = values.unique().drop_null()
    wrong = different.filter(pa.array(~_readable(different, target)))
    bad = pc.is_in(values, value_set=wrong)
    if len(wrong) and pc.all(pc.or_(bad, pc.is_null(values))).as_py():
        kind = values.type
        raise pa.ArrowInvalid(
            f"holds {kind} such as {_shown(wrong[0])}, declared is {_WORDS[field.type]}; {_remedy(kind, field.type)}"
        )
    rows = pc.indices_nonzero(bad).to_pylist()
    reasons = {row: _reason(values[row], field) for row in rows}
    return _without_nan(pc.if_else(bad, pa.scalar(None, type=values.type), values).cast(target)), reasons


def _readable(values: pa.Array, target: pa.DataType) -> npt.NDArray[np.bool_]:
    """Say which values can be cast: parts of them are tried, and cut in smaller ones where one of theirs cannot."""
    reads = np.ones(len(values), dtype=np.bool_)
    if target in _SHAPES and _is_text(values.type):
        # Otherwise a whole column of dates or of times without zones would be cut down to each of them.
        reads = pc.match_substring_regex(values, _SHAPES[target]).to_numpy(zero_copy_only=False)
    parts = [np.flatnonzero(reads)]
    while parts:
        part = parts.pop()
        if len(part) <= _PARTS:
            reads[part] = [_casts(values[place], target) for place in part]
        elif not _casts(values.take(pa.array(part)), target):
            parts += np.array_split(part, _PARTS)
    return reads


def _casts(values: pa.Array | pa.Scalar, target: pa.DataType) -> bool:
    try:
        values.cast(target)
    except pa.ArrowInvalid:
        return False
    return True


def _reason(value: pa.Scalar, field: Field) -> str:
    if field.sensitivity == Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE:
        # Reasons are kept in quarantine and shown; the value is for the vault alone.
        return f"must be {_ONE[field.type]}"
    if _is_text(value.type):
        return f"must be {_ONE[field.type]}, not {_shown(value)}"
    return f"{_shown(value)} does not fit {_WORDS[field.type]} without loss; round it before sending"


def _shown(value: pa.Scalar) -> str:
    text = repr(value.as_py())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _without_nan(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(values.type):
        return values
    nan = pc.is_nan(values)
    return pc.if_else(nan, pa.scalar(None, type=values.type), values) if pc.any(nan).as_py() else values


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _may_convert(kind: pa.DataType, target: int) -> bool:
    match target:
        case FieldType.FIELD_TYPE_STRING:
            return _is_text(kind)
        case FieldType.FIELD_TYPE_INT64 | FieldType.FIELD_TYPE_FLOAT64:
            return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
        case FieldType.FIELD_TYPE_TIMESTAMP:
            return bool(pa.types.is_timestamp(kind) and kind.tz)
        case _:
            return False


def _remedy(kind: pa.DataType, target: int) -> str:
    if target == FieldType.FIELD_TYPE_TIMESTAMP and pa.types.is_timestamp(kind):
        return "a time without zone names no instant: localise it before sending, for example tz_localize('UTC')"
    if target == FieldType.FIELD_TYPE_TIMESTAMP:
        return "parse it to timestamps with a zone before sending"
    return "convert it before sending, or declare the field in this type"


def field_of(dataset: Dataset, column: str) -> Field | None:
    """Return the declaration of a column, None when there is none."""
    return next((field for field in dataset.fields if field.name == column), None)


def unknown(column: str, dataset: Dataset) -> str:
    """Say that a dataset has no such column, and which one may have been meant."""
    hint = did_you_mean(column, [field.name for field in dataset.fields])
    return f"{dataset.name} has no field {column!r}{hint}"
