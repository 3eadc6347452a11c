import math

import pyarrow as pa
import pytest

from chassis.artifacts import canonical_json
from services.ingest.profile import profile


def test_a_profile_describes_each_column() -> None:
    table = pa.table({"x": [1.0, None, 3.0, 3.0], "s": ["a", "b", "b", None], "b": [True, False, True, True]})
    document = profile(4, table.schema, ["s"], table.select)
    assert document["columns"]["x"] == {
        "type": "double",
        "missing": 1,
        "distinct": 2,
        "min": 1.0,
        "max": 3.0,
        "mean": 7 / 3,
        "commonest": [{"value": 3.0, "count": 2}, {"value": 1.0, "count": 1}],
    }
    assert document["columns"]["s"]["commonest"][0] == {"value": "b", "count": 2}
    assert math.isclose(document["columns"]["b"]["mean"], 0.75)
    assert canonical_json(document)


def test_an_empty_snapshot_has_a_profile() -> None:
    table = pa.table({"x": pa.array([], type=pa.float64())})
    assert profile(0, table.schema, ["x"], table.select)["columns"]["x"] == {
        "type": "double",
        "missing": 0,
        "distinct": 0,
    }


@pytest.mark.parametrize(
    ("values", "repeated", "corrected"),
    [
        ([1.0, 2.0, 3.0], 0, 0),
        ([1.0, 1.0, 1.0], 2, 0),
        ([1.0, 2.0, 2.0], 1, 1),
        # Back to what it was before it was corrected.
        ([1.0, 2.0, 1.0], 0, 2),
        ([None, None, 1.0], 1, 1),
        ([1.0, None, None], 1, 1),
    ],
)
def test_a_row_that_comes_again_is_a_repetition_or_a_correction(
    values: list[float | None], repeated: int, corrected: int
) -> None:
    keys = ["a", "a", "a"] if repeated or corrected else ["a", "b", "c"]
    numbers = [7, *([1] * 3), 8]
    table = pa.table({"k": ["x", *keys, "y"], "n": numbers, "v": pa.array([0.0, *values, 0.0])})
    for row_key in (["k"], ["n", "k"]):
        document = profile(5, table.schema, row_key, table.select)
        assert (document["repeated_rows"], document["corrected_rows"]) == (repeated, corrected)
