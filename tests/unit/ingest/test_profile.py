import math

import pyarrow as pa

from chassis.artifacts import canonical_json
from services.ingest.profile import profile


def test_a_profile_describes_each_column() -> None:
    table = pa.table({"x": [1.0, None, 3.0, 3.0], "s": ["a", "b", "b", None], "b": [True, False, True, True]})
    document = profile(4, table.schema, table.select)
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
    assert profile(0, table.schema, table.select)["columns"]["x"] == {"type": "double", "missing": 0, "distinct": 0}
