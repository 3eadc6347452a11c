import numpy as np
import pyarrow as pa
import pytest

from services.features import assembly
from services.features.assembly import Range
from tabular.schema import arrow_schema
from tests.integration.features.world import at, random_trips
from tests.unit.tabular.declarations import ends, feature_set, trips, view

EVERYTHING = Range(None, None, None)


def tables(seed: int = 1, count: int = 120) -> tuple[pa.Table, pa.Table]:
    started, ended = random_trips(seed, count)
    left = pa.Table.from_pylist(started, schema=arrow_schema(trips()))
    return left, pa.Table.from_pylist(ended, schema=arrow_schema(ends()))


def test_buckets_of_keys_together_give_what_one_task_gives() -> None:
    left, right = tables()
    spine = assembly.spine_of(feature_set(), trips(), ends(), EVERYTHING, left, right)

    def features(buckets: int) -> pa.Table:
        parts = [
            assembly.view_features(feature_set(), 0, view(), ends(), spine, right, bucket, buckets)
            for bucket in range(buckets)
        ]
        names = ["driver_delays_n", "driver_delays_mean", "driver_delays_weather"]
        columns = [("km", 1), *((name, 2 if name.endswith("weather") else 1) for name in names)]
        return assembly.finished(spine, ["trip"], ["driver"], columns, parts)

    whole, parted = features(1), features(3)
    assert parted.schema == whole.schema
    assert parted.drop_columns(["driver_delays_mean"]).equals(whole.drop_columns(["driver_delays_mean"]))
    np.testing.assert_allclose(
        parted["driver_delays_mean"].to_pandas(), whole["driver_delays_mean"].to_pandas(), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [("greater_than", 15.0, [1.0, 0.0]), ("equals", "20", [1.0, 0.0]), ("value", True, [20.0, 15.0])],
)
def test_a_label_follows_its_rule_and_null_has_none(rule: str, value: object, expected: list[float]) -> None:
    declared = feature_set()
    declared.label.ClearField("greater_than")
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
    here, columns = assembly.view_features(feature_set(), 0, view(), ends(), spine, right.slice(0, 0), 0, 1)
    assert (len(here), columns.num_rows) == (0, 0)
    assert assembly.label_mean(spine) == 0.0
