import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from services.ingest.validation import REASONS, ROW_NUMBER, Validator, commonest, kinds_of
from tabular.schema import arrow_schema

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def dataset(**changes: object) -> Dataset:
    value = Field(name="value", type=FieldType.FIELD_TYPE_FLOAT64, nullable=True)
    text = Field(name="text", type=FieldType.FIELD_TYPE_STRING, nullable=True)
    for name, change in changes.items():
        if name in ("minimum", "maximum"):
            setattr(value, name, change)
        elif name == "allowed":
            text.allowed.extend(change)  # type: ignore[arg-type]
        else:
            setattr(text, name, change)
    key = Field(name="key", type=FieldType.FIELD_TYPE_INT64)
    return Dataset(name="d", fields=[key, value, text], row_key=["key"])


def check(declared: Dataset, rows: list[dict[str, object]]) -> tuple[list[int], dict[int, dict[str, str]]]:
    table = pa.Table.from_pylist(rows, schema=arrow_schema(declared))
    parted = Validator(declared).validate(table)
    refused = {
        number: {r["field"]: r["message"] for r in json.loads(reasons)}
        for number, reasons in zip(
            parted.quarantined[ROW_NUMBER].to_pylist(), parted.quarantined[REASONS].to_pylist(), strict=True
        )
    }
    return parted.accepted["key"].to_pylist(), refused


@pytest.mark.parametrize(
    ("rules", "bad", "message"),
    [
        ({"minimum": 0.0}, {"value": -1.0}, "must be at least 0"),
        ({"maximum": 5.0}, {"value": 6.0}, "must be at most 5"),
        ({}, {"value": float("inf")}, "must be a finite number"),
        ({"allowed": ["a", "b"]}, {"text": "c"}, "must be one of a, b"),
        ({"pattern": "[a-z]+"}, {"text": "a1"}, "must match [a-z]+"),
        ({"nullable": False}, {"text": None}, "must not be null"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_with_the_reason(
    rules: dict[str, object], bad: dict[str, object], message: str
) -> None:
    good: dict[str, object] = {"key": 1, "value": 1.0, "text": "a"}
    accepted, refused = check(dataset(**rules), [good, {**good, "key": 2, **bad}, {**good, "key": 3}])
    assert accepted == [1, 3]
    assert refused == {1: {next(iter(bad)): message}}


def test_nulls_of_nullable_fields_pass_every_rule() -> None:
    declared = dataset(minimum=0.0, allowed=["a"], pattern="a")
    assert check(declared, [{"key": 1, "value": None, "text": None}]) == ([1], {})


def test_of_rows_with_one_key_the_first_counts() -> None:
    rows: list[dict[str, object]] = [{"key": k, "value": float(n), "text": None} for n, k in enumerate([1, 2, 1, 1])]
    accepted, refused = check(dataset(), rows)
    assert accepted == [1, 2]
    assert sorted(refused) == [2, 3]
    assert "row key" in refused[2]["key"]


def test_a_row_with_two_faults_names_both() -> None:
    rows: list[dict[str, object]] = [{"key": 1, "value": -1.0, "text": None}]
    _, refused = check(dataset(minimum=0.0, nullable=False), rows)
    assert refused == {0: {"value": "must be at least 0", "text": "must not be null"}}


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_number_bars_a_release_although_it_breaks_a_bound_too(value: float) -> None:
    declared = dataset(minimum=0.0, maximum=5.0)
    table = pa.Table.from_pylist([{"key": 1, "value": value, "text": None}], schema=arrow_schema(declared))
    (text,) = Validator(declared).validate(table).quarantined[REASONS].to_pylist()
    assert json.loads(text) == [{"field": "value", "message": "must be a finite number", "kind": "type"}]
    assert kinds_of(text) == {"type"}


def test_a_field_that_breaks_two_rules_names_both() -> None:
    _, refused = check(dataset(allowed=["a", "b"], pattern="[a-z]"), [{"key": 1, "value": None, "text": "Q"}])
    assert refused == {0: {"text": "must be one of a, b; must match [a-z]"}}


def test_a_row_key_that_comes_again_is_a_duplicate_whatever_else_it_breaks() -> None:
    declared = dataset()
    declared.fields[0].maximum = 5
    rows: list[dict[str, object]] = [{"key": 9, "value": None, "text": None}] * 2
    table = pa.Table.from_pylist(rows, schema=arrow_schema(declared))
    texts = Validator(declared).validate(table).quarantined[REASONS].to_pylist()
    assert [kinds_of(text) for text in texts] == [{"value"}, {"duplicate"}]


def test_an_empty_batch_is_valid() -> None:
    assert check(dataset(minimum=0.0), []) == ([], {})


def test_commonest_reasons_come_first() -> None:
    few, many = ('[{"field": "a", "message": "x"}]', '[{"field": "b", "message": "y"}]')
    assert [(r.field, r.rows) for r in commonest([few, many, many])] == [("b", 2), ("a", 1)]
