"""Check how one feature of a view is declared, and say of which type it is."""

from lineal.api.features.v1.feature_set_pb2 import ColumnType
from lineal.api.features.v1.feature_view_pb2 import Aggregate, AggregateFunction, Feature, Lag, Latest
from lineal.api.ingest.v1.dataset_pb2 import Dataset, FieldType, Sensitivity
from tabular.schema import Violation, field_of, unknown
from tabular.sorted_rows import as_number

NUMBERS = (FieldType.FIELD_TYPE_INT64, FieldType.FIELD_TYPE_FLOAT64, FieldType.FIELD_TYPE_BOOL)
# Rows that a lag may look back: each is kept online for every entity.
MOST_LAG = 32
_FUNCTION = AggregateFunction
# What can be computed without a column, and what of a column of texts.
_ROWS = (_FUNCTION.AGGREGATE_FUNCTION_COUNT, _FUNCTION.AGGREGATE_FUNCTION_RATE)
_PICKED = (_FUNCTION.AGGREGATE_FUNCTION_LAST, _FUNCTION.AGGREGATE_FUNCTION_FIRST)
_TEXTS = (
    *_ROWS,
    *_PICKED,
    _FUNCTION.AGGREGATE_FUNCTION_DISTINCT,
    _FUNCTION.AGGREGATE_FUNCTION_SHARE_EQUALS,
)


def feature_violations(path: str, feature: Feature, dataset: Dataset) -> list[Violation]:
    """Check a feature over its dataset."""
    match feature.WhichOneof("kind"):
        case "latest":
            return _latest_violations(f"{path}.latest", feature.latest, dataset)
        case "aggregate":
            return _aggregate_violations(f"{path}.aggregate", feature.aggregate, dataset)
        case "lag":
            return _lag_violations(f"{path}.lag", feature.lag, dataset)
        case "since_last":
            if dataset.event_time:
                return []
            return [Violation(f"{path}.since_last", f"{dataset.name} has no event_time to measure from; leave it out")]
        case _:
            return [Violation(path, "say how it is computed: latest, aggregate, lag or since_last")]


def feature_type(feature: Feature, dataset: Dataset) -> ColumnType.ValueType:
    """Return the type of a valid feature."""
    match feature.WhichOneof("kind"):
        case "latest":
            return column_type(dataset, feature.latest.column)
        case "lag":
            return column_type(dataset, feature.lag.column)
        case "aggregate" if feature.aggregate.function in _PICKED:
            return column_type(dataset, feature.aggregate.column)
        case _:
            return ColumnType.COLUMN_TYPE_NUMERIC


def column_type(dataset: Dataset, column: str) -> ColumnType.ValueType:
    """Return the type that a column has as a feature."""
    field = field_of(dataset, column)
    text = field is not None and field.type == FieldType.FIELD_TYPE_STRING
    return ColumnType.COLUMN_TYPE_CATEGORICAL if text else ColumnType.COLUMN_TYPE_NUMERIC


def column_violations(path: str, column: str, dataset: Dataset) -> list[Violation]:
    """Check that a column may become a feature."""
    field = field_of(dataset, column)
    if field is None:
        return [Violation(path, unknown(column, dataset))]
    if field.type == FieldType.FIELD_TYPE_TIMESTAMP:
        return [Violation(path, f"{column!r} is a timestamp, which is no feature; declare a number derived from it")]
    if field.sensitivity == Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE:
        return [
            Violation(path, f"{column!r} is a protected attribute: for evaluation only, never a feature; leave it out")
        ]
    if field.sensitivity == Sensitivity.SENSITIVITY_DIRECT_IDENTIFIER:
        return [Violation(path, f"{column!r} identifies a person directly and is no feature; leave it out")]
    return []


def _latest_violations(path: str, latest: Latest, dataset: Dataset) -> list[Violation]:
    found = column_violations(f"{path}.column", latest.column, dataset)
    if latest.HasField("max_age"):
        if latest.max_age.ToMicroseconds() <= 0:
            found.append(Violation(f"{path}.max_age", "must be above 0; leave it out for no limit"))
        if not dataset.event_time:
            found.append(Violation(f"{path}.max_age", f"{dataset.name} has no event_time; leave it out"))
    return found


def _lag_violations(path: str, lag: Lag, dataset: Dataset) -> list[Violation]:
    found = column_violations(f"{path}.column", lag.column, dataset)
    if not 1 <= lag.n <= MOST_LAG:
        found.append(Violation(f"{path}.n", f"must be 1 (the latest row) to {MOST_LAG}; {lag.n} is not"))
    if not dataset.event_time:
        text = f"{dataset.name} has no event_time: of an entity only the latest row counts; use latest"
        found.append(Violation(path, text))
    return found


def _aggregate_violations(path: str, aggregate: Aggregate, dataset: Dataset) -> list[Violation]:
    function = aggregate.function
    found = []
    if function == _FUNCTION.AGGREGATE_FUNCTION_UNSPECIFIED:
        known = [name.removeprefix("AGGREGATE_FUNCTION_") for name in _FUNCTION.keys()[1:]]
        found.append(Violation(f"{path}.function", f"choose {', '.join(known[:-1])} or {known[-1]}"))
    if aggregate.column or function not in _ROWS:
        wrong = column_violations(f"{path}.column", aggregate.column, dataset)
        field = field_of(dataset, aggregate.column)
        if not wrong and function not in _TEXTS and field is not None and field.type not in NUMBERS:
            those = ", ".join(_FUNCTION.Name(each).removeprefix("AGGREGATE_FUNCTION_") for each in _TEXTS)
            text = f"{aggregate.column!r} is text, of which there are only {those}; choose one, or another column"
            wrong = [Violation(f"{path}.column", text)]
        if not wrong and function == _FUNCTION.AGGREGATE_FUNCTION_SHARE_EQUALS and field is not None:
            wrong = _equals_violations(f"{path}.equals", aggregate.equals, field.type in NUMBERS)
        found += wrong
    found += _window_violations(path, aggregate)
    if not dataset.event_time:
        found.append(Violation(f"{path}.window", f"{dataset.name} has no event_time to cut a window by; use latest"))
    return found


def _equals_violations(path: str, equals: str, number: bool) -> list[Violation]:
    if not number:
        return []
    try:
        as_number(equals)
    except ValueError:
        text = f"the column holds numbers and {equals!r} is none; write a decimal, or true or false"
        return [Violation(path, text)]
    return []


def _window_violations(path: str, aggregate: Aggregate) -> list[Violation]:
    found = []
    if aggregate.window.ToMicroseconds() <= 0:
        found.append(Violation(f"{path}.window", "must be above 0"))
    rate = aggregate.function == _FUNCTION.AGGREGATE_FUNCTION_RATE
    if rate and aggregate.per.ToMicroseconds() <= 0:
        found.append(Violation(f"{path}.per", "say per which time, above 0, for example 1h"))
    if not rate and aggregate.HasField("per"):
        found.append(Violation(f"{path}.per", "belongs to RATE alone; remove it"))
    if aggregate.equals and aggregate.function != _FUNCTION.AGGREGATE_FUNCTION_SHARE_EQUALS:
        found.append(Violation(f"{path}.equals", "belongs to SHARE_EQUALS alone; remove it"))
    return found
