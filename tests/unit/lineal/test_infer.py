from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from lineal.api.ingest.v1.dataset_pb2 import Dataset, FieldType, Sensitivity
from lineal.infer import propose
from lineal.project import read_project
from services.ingest.validation import Validator
from tabular.definitions import dataset_violations
from tabular.schema import normalise

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def inferred(folder: Path, table: pa.Table) -> Dataset:
    (folder / "d.yaml").write_text(propose("Some Rows", table), encoding="utf-8")
    (definition,) = read_project(folder)
    dataset: Dataset = definition.message
    return dataset


def rows(count: int = 200) -> pa.Table:
    return pa.table(
        {
            "order_id": [f"o{n}" for n in range(count)],
            "Customer": ["no", "yes"] * (count // 2),
            "contact": [f"p{n}@example.org" for n in range(count)],
            "gender": ["f", "m"] * (count // 2),
            "amount": [None, *(float(n) for n in range(count - 1))],
            "month": [n % 12 + 1 for n in range(count)],
            "delta": [n - 3 for n in range(count)],
            "event_time": pa.array([NOON] * count, pa.timestamp("us", "UTC")),
            "recorded_at": pa.array([NOON] * count, pa.timestamp("us", "UTC")),
        }
    )


def test_a_proposal_accepts_the_rows_it_was_made_from(tmp_path: Path) -> None:
    table = rows()
    dataset = inferred(tmp_path, table)
    assert dataset_violations(dataset) == []
    assert (dataset.name, list(dataset.row_key)) == ("some-rows", ["order_id"])
    assert (dataset.event_time, dataset.available_time) == ("event_time", "recorded_at")
    parted = Validator(dataset).validate(*normalise(table, dataset))
    assert parted.accepted.num_rows == table.num_rows


def test_bounds_and_sets_are_proposed_only_where_they_are_safe(tmp_path: Path) -> None:
    fields = {field.name: field for field in inferred(tmp_path, rows()).fields}
    assert (fields["month"].minimum, fields["month"].maximum) == (1, 12)
    assert (fields["amount"].minimum, fields["amount"].HasField("maximum")) == (0, False)
    assert (fields["amount"].nullable, fields["delta"].nullable) == (True, False)
    assert not fields["delta"].HasField("minimum")
    assert list(fields["Customer"].allowed) == ["no", "yes"]
    few = {field.name: field for field in inferred(tmp_path, rows(20)).fields}
    assert not few["Customer"].allowed
    assert not few["amount"].HasField("minimum")


def test_personal_columns_are_marked_by_shape_and_by_name(tmp_path: Path) -> None:
    fields = {field.name: field for field in inferred(tmp_path, rows()).fields}
    assert fields["contact"].sensitivity == Sensitivity.SENSITIVITY_DIRECT_IDENTIFIER
    assert not fields["contact"].allowed
    assert fields["gender"].sensitivity == Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE
    assert fields["amount"].sensitivity == Sensitivity.SENSITIVITY_UNSPECIFIED


@pytest.mark.parametrize(
    ("name", "direct"), [("phone", True), ("customerName", True), ("tailnum", False), ("name_of_ship", False)]
)
def test_names_that_identify_people(tmp_path: Path, name: str, direct: bool) -> None:
    (field,) = inferred(tmp_path, pa.table({name: ["a", "b"]})).fields
    assert (field.sensitivity == Sensitivity.SENSITIVITY_DIRECT_IDENTIFIER) is direct


def test_a_key_of_several_columns_is_found_and_none_is_said(tmp_path: Path) -> None:
    pairs = pa.table({"a": [1, 1, 2, 2], "b": ["x", "y", "x", "y"], "c": [0.5] * 4})
    assert list(inferred(tmp_path, pairs).row_key) == ["a", "b"]
    assert "which identify a row?" in propose("d", pa.table({"a": [1, 1]}))


@pytest.mark.parametrize(
    ("values", "kind", "note"),
    [
        (pa.array([NOON.replace(tzinfo=None)] * 2), FieldType.FIELD_TYPE_TIMESTAMP, "no time zone"),
        (pa.array([NOON.date()] * 2), FieldType.FIELD_TYPE_STRING, "date32"),
        (pa.nulls(2), FieldType.FIELD_TYPE_STRING, "empty"),
        (pa.array(["a: #", "- b"]).dictionary_encode(), FieldType.FIELD_TYPE_STRING, ""),
        (pa.array([float("nan"), 1.0]), FieldType.FIELD_TYPE_FLOAT64, ""),
    ],
)
def test_what_needs_a_look_is_said(tmp_path: Path, values: pa.Array, kind: int, note: str) -> None:
    table = pa.table({"x y: #": values})
    assert inferred(tmp_path, table).fields[0].type == kind
    assert note in propose("d", table)
