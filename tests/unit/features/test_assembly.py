from typing import Any

import pyarrow as pa
import pytest

from services.features import assembly
from services.features.assembly import Range
from services.features.buckets import buckets_of
from tabular.schema import arrow_schema
from tests.integration.features.world import at, random_trips
from tests.unit.tabular.declarations import ends, feature_set, trips, view

EVERYTHING = Range(None, None, None)


def tables(seed: int = 1, count: int = 120) -> tuple[pa.Table, pa.Table]:
    started, ended = random_trips(seed, count)
    left = pa.Table.from_pylist(started, schema=arrow_schema(trips()))
    return left, pa.Table.from_pylist(ended, schema=arrow_schema(ends()))


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("greater_than", 15.0, [1.0, 0.0]),
        ("equals", "20", [1.0, 0.0]),
        ("value", True, [20.0, 15.0]),
        ("classes", ["15", "7", "20"], [2.0, 0.0]),
    ],
)
def test_a_label_follows_its_rule_and_null_has_none(rule: str, value: Any, expected: list[float]) -> None:
    declared = feature_set()
    declared.label.ClearField("greater_than")
    if rule == "classes":
        declared.label.classes.values.extend(value)
    else:
        setattr(declared.label, rule, value)
    trip = {"driver": "a", "km": 1.0, "start": at(0), "told": at(0)}
    left = pa.Table.from_pylist([{**trip, "trip": t} for t in "abcd"], schema=arrow_schema(trips()))
    end = {"driver": "a", "landed": at(9), "told": at(9)}
    delays = {"a": 20.0, "b": 15.0, "c": None}
    right = pa.Table.from_pylist(
        [{**end, "trip": t, "delay": delay} for t, delay in delays.items()], schema=arrow_schema(ends())
    )
    spine = assembly.spine_of(declared, trips(), ends(), EVERYTHING, left, right)
    assert spine["trip"].to_pylist() == ["a", "b"]
    assert spine["label"].to_pylist() == expected


def test_a_spine_without_rows_is_empty() -> None:
    left, right = tables()
    spine = assembly.spine_of(feature_set(), trips(), ends(), EVERYTHING, left.slice(0, 0), right.slice(0, 0))
    assert spine.num_rows == 0
    columns = assembly.ViewRows(feature_set(), 0, view(), ends(), right.slice(0, 0)).features(spine)
    assert columns.num_rows == 0
    assert assembly.label_sum(spine) == 0.0


def test_equal_keys_share_a_bucket_in_any_table() -> None:
    texts, numbers = ["ann", None, "bob", "ann"], [1, 2, None, 1]
    whole = buckets_of([pa.chunked_array([texts]), pa.chunked_array([numbers])], 1_000_000)
    assert whole[0] == whole[3]
    assert len(set(whole.tolist())) == 3
    parted = [pa.chunked_array([["zoe"], texts[2:]]), pa.chunked_array([[9], numbers[2:]])]
    assert buckets_of(parted, 1_000_000)[1:].tolist() == whole[2:].tolist()


def test_a_sample_is_the_same_rows_whatever_else_is_there() -> None:
    left, right = tables(count=2000)
    whole = assembly.spine_of(feature_set(), trips(), ends(), EVERYTHING, left, right)
    span = Range(None, None, None, share=0.25)
    some = assembly.spine_of(feature_set(), trips(), ends(), span, left, right)
    half = assembly.spine_of(feature_set(), trips(), ends(), span, left.slice(0, 1000), right)
    taken = set(some["trip"].to_pylist())
    assert 0.2 < len(taken) / whole.num_rows < 0.3
    assert set(half["trip"].to_pylist()) == taken & set(left.slice(0, 1000)["trip"].to_pylist())


def test_rows_end_in_one_order_however_they_came() -> None:
    left, right = tables()
    spine = assembly.spine_of(feature_set(), trips(), ends(), EVERYTHING, left, right)
    for order in ("ascending", "descending"):
        came = left.sort_by([("start", order), ("trip", "ascending")])
        assert assembly.spine_of(feature_set(), trips(), ends(), EVERYTHING, came, right).equals(spine)
    assert spine.equals(spine.sort_by([("cutoff", "ascending"), ("trip", "ascending")]))


def test_labels_of_the_rows_themselves_are_those_of_a_table_beside_them() -> None:
    left, _ = tables()
    left = pa.concat_tables([left, left.slice(0, 40)])
    declared = feature_set()
    declared.label.dataset, declared.label.column = "trips", "km"
    middle = left["told"].cast(pa.int64()).sort().to_numpy()[80]
    own = assembly.spine_of(declared, trips(), trips(), Range(None, None, middle), left, left)
    assert 0 < own.num_rows < left.num_rows
    copy = left.slice(0)
    assert own.equals(assembly.spine_of(declared, trips(), trips(), Range(None, None, middle), left, copy))


def test_queries_answered_in_parts_have_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = tables()
    spine = assembly.spine_of(feature_set(), trips(), ends(), EVERYTHING, left, right)
    whole = assembly.ViewRows(feature_set(), 0, view(), ends(), right).features(spine)
    monkeypatch.setattr(assembly, "_QUERIES_TOGETHER", 7)
    assert assembly.ViewRows(feature_set(), 0, view(), ends(), right).features(spine).equals(whole)
