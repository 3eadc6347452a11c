"""Check how row transforms are declared, and say which columns they make."""

import math
import zoneinfo
from collections.abc import Mapping, Sequence, Set
from itertools import pairwise

from lineal.api.features.v1.transform_pb2 import CalendarPart, Impute, Transform
from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType, Sensitivity
from tabular.schema import Violation, field_of, unknown
from tabular.transforms import COLUMNS, outputs, sources

_NUMBER, _TEXT, _TIME = "number", "text", "time"
_KINDS = {FieldType.FIELD_TYPE_STRING: _TEXT, FieldType.FIELD_TYPE_TIMESTAMP: _TIME}
_TAKES: Mapping[str, tuple[str, ...]] = {
    "cross": (_TEXT,),
    "calendar": (_TIME,),
    "text_length": (_TEXT,),
    "difference": (_NUMBER, _TIME),
    "impute": (_NUMBER, _TEXT),
}


def with_transforms(dataset: Dataset, transforms: Sequence[Transform]) -> Dataset:
    """Return a dataset with the fields that valid transforms add to its own."""
    if not transforms:
        return dataset
    extended = Dataset()
    extended.CopyFrom(dataset)
    for transform in transforms:
        _add(extended, transform)
    return extended


def transform_violations(path: str, transforms: Sequence[Transform], dataset: Dataset) -> list[Violation]:
    """Check transforms over a dataset, each over the columns of those before it, too."""
    extended = Dataset()
    extended.CopyFrom(dataset)
    found: list[Violation] = []
    for n, transform in enumerate(transforms):
        later = {name for each in transforms[n:] for name in outputs(each)}
        found += _violations(f"{path}[{n}]", transform, extended, later)
        _add(extended, transform)
    return found


def _add(dataset: Dataset, transform: Transform) -> None:
    kind = transform.WhichOneof("kind")
    text = kind == "cross" or (kind == "impute" and _kind_of(transform.impute.column, dataset) == _TEXT)
    types = [FieldType.FIELD_TYPE_STRING if text else FieldType.FIELD_TYPE_FLOAT64, FieldType.FIELD_TYPE_FLOAT64]
    for name, of_type in zip(outputs(transform), types, strict=False):
        dataset.fields.append(Field(name=name, type=of_type, nullable=True))


def _kind_of(column: str, dataset: Dataset) -> str:
    field = field_of(dataset, column)
    return _NUMBER if field is None else _KINDS.get(field.type, _NUMBER)


def _violations(path: str, transform: Transform, dataset: Dataset, later: Set[str]) -> list[Violation]:
    found = []
    for name, where in zip(outputs(transform), (f"{path}.name", f"{path}.impute.flag"), strict=False):
        if not (name.isidentifier() and name.isascii()):
            remedy = "use letters, digits and underscores, beginning with a letter"
            found.append(Violation(where, f"{name!r} is no column name; {remedy}"))
        elif field_of(dataset, name) is not None or outputs(transform).count(name) > 1:
            found.append(Violation(where, f"there is a column {name!r} already; choose another name"))
    kind = transform.WhichOneof("kind")
    if kind is None:
        return [*found, Violation(path, f"say how it is computed: {', '.join(COLUMNS)}")]
    taken = _TAKES.get(kind, (_NUMBER,))
    for place, column in zip(COLUMNS[kind], sources(transform), strict=True):
        found += _source_violations(f"{path}.{kind}.{place}", column, taken, dataset, later)
    kinds = {_kind_of(column, dataset) for column in sources(transform)}
    if kind == "difference" and len(kinds) > 1 and not found:
        found.append(
            Violation(f"{path}.difference.right", "is of another type than left; take two numbers or two times")
        )
    return found + _constant_violations(f"{path}.{kind}", transform, kinds)


def _source_violations(
    path: str, column: str, taken: Sequence[str], dataset: Dataset, later: Set[str]
) -> list[Violation]:
    field = field_of(dataset, column)
    if field is None and column in later:
        text = f"{column!r} is made by this transform or a later one; each takes only what is made before it"
        return [Violation(path, f"{text}: change their order, and go in no circle")]
    if field is None:
        return [Violation(path, unknown(column, dataset))]
    if field.sensitivity == Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE:
        return [
            Violation(
                path, f"{column!r} is a protected attribute: for evaluation only, never part of a feature; leave it out"
            )
        ]
    if field.sensitivity == Sensitivity.SENSITIVITY_DIRECT_IDENTIFIER:
        return [Violation(path, f"{column!r} identifies a person directly and is no part of a feature; leave it out")]
    kind = _kind_of(column, dataset)
    if kind not in taken:
        return [Violation(path, f"{column!r} is a {kind}; take a column that is a {' or a '.join(taken)}")]
    return []


def _constant_violations(path: str, transform: Transform, kinds: set[str]) -> list[Violation]:
    match transform.WhichOneof("kind"):
        case "bins":
            edges = list(transform.bins.edges)
            finite = all(math.isfinite(edge) for edge in edges)
            if not edges or not finite or any(a >= b for a, b in pairwise(edges)):
                return [Violation(f"{path}.edges", "give at least one number, each above the one before")]
        case "calendar":
            return _calendar_violations(path, transform)
        case "clip":
            clip = transform.clip
            if not clip.HasField("minimum") and not clip.HasField("maximum"):
                return [Violation(path, "give a minimum, a maximum or both")]
            bounds = [getattr(clip, name) for name in ("minimum", "maximum") if clip.HasField(name)]
            if any(math.isnan(bound) for bound in bounds) or bounds != sorted(bounds):
                return [Violation(f"{path}.minimum", "is above maximum or no number; correct it")]
        case "scale":
            constants = (transform.scale.center, transform.scale.width)
            if not all(math.isfinite(each) for each in constants) or transform.scale.width == 0:
                return [Violation(f"{path}.width", "center and width must be numbers, and width not 0")]
        case "impute":
            return _impute_violations(path, transform.impute, text=_TEXT in kinds)
        case _:
            pass
    return []


def _impute_violations(path: str, impute: Impute, *, text: bool) -> list[Violation]:
    wanted = "text" if text else "number"
    if impute.WhichOneof("value") != wanted:
        return [Violation(path, f"{impute.column!r} is a {wanted}; say under `{wanted}` what stands for null")]
    if not text and not math.isfinite(impute.number):
        return [Violation(f"{path}.number", "must be a finite number")]
    return []


def _calendar_violations(path: str, transform: Transform) -> list[Violation]:
    found = []
    if transform.calendar.part == CalendarPart.CALENDAR_PART_UNSPECIFIED:
        known = [name.removeprefix("CALENDAR_PART_").lower() for name in CalendarPart.keys()[1:]]
        found.append(Violation(f"{path}.part", f"choose one of {', '.join(known)}"))
    try:
        zoneinfo.ZoneInfo(transform.calendar.zone or "UTC")
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        text = f"{transform.calendar.zone!r} is no time zone; write it like Europe/Berlin, or leave it out for UTC"
        found.append(Violation(f"{path}.zone", text))
    return found
