import pytest

from chassis.retirement import StillUsed
from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from lineal.api.ingest.v1.events_pb2 import DatasetRegistered, SnapshotCreated
from services.ingest.dataset import (
    DatasetInvalid,
    DatasetState,
    SchemaIncompatible,
    evolve,
    record_snapshot,
    register,
    retire,
)


def declaration() -> Dataset:
    return Dataset(name="d", fields=[Field(name="key", type=FieldType.FIELD_TYPE_INT64)], row_key=["key"])


def registered(*declarations: Dataset) -> DatasetState:
    state = DatasetState()
    for declared in declarations:
        for event in register(state, declared):
            state = evolve(state, event)
    return state


def test_a_first_declaration_is_version_1() -> None:
    assert register(DatasetState(), declaration()) == [DatasetRegistered(dataset=declaration(), schema_version=1)]


def test_the_same_declaration_changes_nothing() -> None:
    assert register(registered(declaration()), declaration()) == []


def test_another_declaration_is_the_next_version() -> None:
    wider = declaration()
    wider.fields.add(name="more", type=FieldType.FIELD_TYPE_STRING, nullable=True)
    assert registered(declaration(), wider, declaration()).schema_version == 3


def test_a_wrong_declaration_is_refused_by_path() -> None:
    with pytest.raises(DatasetInvalid) as caught:
        register(DatasetState(), Dataset(name="d"))
    assert {v.field for v in caught.value.violations} == {"dataset.fields", "dataset.row_key"}


def test_a_column_keeps_its_type_for_good() -> None:
    wider, other = declaration(), declaration()
    wider.fields.add(name="more", type=FieldType.FIELD_TYPE_STRING)
    other.fields.add(name="more", type=FieldType.FIELD_TYPE_BOOL)
    state = registered(declaration(), wider, declaration())
    with pytest.raises(SchemaIncompatible, match="another name"):
        register(state, other)


def test_a_row_key_never_changes() -> None:
    other = declaration()
    other.fields.add(name="more", type=FieldType.FIELD_TYPE_STRING)
    other.row_key.append("more")
    with pytest.raises(SchemaIncompatible, match="row_key"):
        register(registered(declaration()), other)


def test_a_snapshot_is_recorded_once() -> None:
    snapshot = SnapshotCreated(dataset="d", snapshot_digest="a" * 64)
    state = registered(declaration())
    assert record_snapshot(state, snapshot) == [snapshot]
    assert record_snapshot(evolve(state, snapshot), snapshot) == []


def test_a_dataset_is_retired_once_nothing_uses_it_and_comes_back_as_its_next_version() -> None:
    state = registered(declaration())
    with pytest.raises(StillUsed, match="dataset 'd' is still used by feature view 'v'"):
        retire(state, "d", reason="old", users=["feature view 'v'"])
    (event,) = retire(state, "d", reason="old", users=[])
    retired = evolve(state, event)
    assert retire(retired, "d", reason="older", users=["feature view 'v'"]) == []
    (again,) = register(retired, declaration())
    assert isinstance(again, DatasetRegistered)
    assert (again.schema_version, evolve(retired, again).retired) == (2, False)
