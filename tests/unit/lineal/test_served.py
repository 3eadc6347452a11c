"""What the part of a proof about rows refuses, beside what was changed byte by byte."""

import copy
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from chassis.records import serialize
from lineal import merkle, rows, served
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, DatasetRegistered
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.notes import Checkpoint
from lineal.proof_file import ProofInvalid, text_of
from tabular.schema import arrow_schema
from tests.unit.tabular.declarations import ends, feature_set, view

_NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
_END = {"delay": 1.0, "weather": "sun", "landed": _NOON, "told": _NOON}
_ROWS = [{"trip": "t0", "driver": "ann", **_END}, {"trip": "t1", "driver": "bob", **_END}]
_ENCODED = rows.encode(pa.Table.from_pylist(_ROWS, schema=arrow_schema(ends())))
_TREE = merkle.levels([merkle.leaf_hash(data) for data in _ENCODED])
_BATCH = BatchAccepted(
    dataset="ends",
    batch_id="b",
    schema_version=1,
    accepted_rows=2,
    accepted_digest="f" * 64,
    rows_root=_TREE[-1][0].hex(),
)
_EVENTS = [
    DatasetRegistered(dataset=ends(), schema_version=1),
    FeatureViewRegistered(feature_view=view(), version="v"),
    FeatureSetRegistered(feature_set=feature_set(), version="s", view_versions={"driver-delays": "v"}),
    _BATCH,
]
_RECORDS = [
    EventRecord(position=n, type=event.DESCRIPTOR.full_name, payload=serialize(event)).SerializeToString()
    for n, event in enumerate(_EVENTS, 1)
]
_LOG = merkle.levels([merkle.leaf_hash(record) for record in _RECORDS])
_CHECKPOINT = Checkpoint("log", len(_RECORDS), _LOG[-1][0])
_BUNDLE = {"feature_set": "late", "feature_set_version": "s", "training_set_digest": ""}
_FILE = {"batch_id": "b", "digest": "f" * 64, "position": 4, "rows": 2, "rows_root": _BATCH.rows_root}


def row(number: int) -> dict[str, Any]:
    path = [text_of(one) for one in merkle.path(_TREE, number)]
    return {"batch": 4, "row": number, "data": text_of(_ENCODED[number]), "path": path}


def given() -> dict[str, Any]:
    events = [
        {"record": text_of(record), "path": [text_of(one) for one in merkle.path(_LOG, n)]}
        for n, record in enumerate(_RECORDS)
    ]
    return {"events": copy.deepcopy(events), "rows": [row(0)]}


def check(
    part: dict[str, Any], *, position: int = 4, driver: str = "ann", file: dict[str, Any] | None = None
) -> served.Served:
    record = PredictionRecord(feature_position=position, entities={"driver": driver})
    snapshot = (
        {"dataset": "ends", "files": [{**_FILE, **file}]} if file is not None else {"dataset": "ends", "files": []}
    )
    return served.check(part, _CHECKPOINT, record, [_BUNDLE, snapshot])


def test_rows_are_shown_with_their_values() -> None:
    found = check(given(), file={})
    assert [(one.batch_id, one.row, one.in_snapshot) for one in found.rows] == [("b", 0, True)]
    assert found.rows[0].values == _ROWS[0]
    assert list(found.views) == ["driver-delays"]
    assert not check(given()).rows[0].in_snapshot


@pytest.mark.parametrize("column", ["batch_id", "digest", "rows", "rows_root"])
def test_a_snapshot_must_say_the_same_of_a_batch(column: str) -> None:
    with pytest.raises(ProofInvalid, match="manifest: a snapshot says other things of batch b"):
        check(given(), file={column: "other"})


def test_rows_of_others_and_of_later_are_refused() -> None:
    with pytest.raises(ProofInvalid, match="row: 0 of batch b of ends does not speak of the prediction's entities"):
        check(given(), driver="bob")
    with pytest.raises(ProofInvalid, match="row: 0 of batch b of ends was accepted after"):
        check(given(), position=3)
    with pytest.raises(ProofInvalid, match="definition: there are rows, but nothing was looked up"):
        check(given(), position=0)
    twice = given()
    twice["rows"] *= 2
    with pytest.raises(ProofInvalid, match="row: rows are not in log order, each once"):
        check(twice)


def test_a_row_in_the_place_of_another_is_refused() -> None:
    moved = given()
    moved["rows"] = [row(1) | {"row": 0}]
    with pytest.raises(ProofInvalid, match="row: 0 of batch b of ends: leaf 0 does not lead to the root"):
        check(moved, driver="bob")


def test_nothing_looked_up_needs_nothing() -> None:
    assert check({"events": [], "rows": []}, position=0).feature_set is None


@pytest.mark.parametrize("part", [None, {}, {"events": [1], "rows": []}, {"events": [], "rows": {}}])
def test_what_is_no_part_of_a_proof_is_refused(part: Any) -> None:
    with pytest.raises(ProofInvalid):
        check(part)
