"""Online state and offline tables count the same versions of rows, whatever is corrected, late or moved."""

import math
import os

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineal.api.features.v1.events_pb2 import FeatureViewRegistered
from services.features import assembly, chunks, state
from services.features.packing import unpack
from tabular.columns import TIMESTAMP
from tabular.operators import Timeline, operator
from tabular.schema import arrow_schema
from tests.integration.features.world import at
from tests.unit.features.memory_state import MemoryState
from tests.unit.features.wide import wide_view
from tests.unit.tabular.declarations import ends, feature_set

EXAMPLES = int(os.environ.get("LINEAL_TEST_EXAMPLES", "60"))
DRIVERS = ["ann", "bob", None]

row = st.fixed_dictionaries(
    {
        # Few keys: most rows correct or repeat another.
        "trip": st.one_of(st.sampled_from("abc"), st.integers(0, 30).map(str)),
        "driver": st.sampled_from(DRIVERS),
        "delay": st.one_of(st.none(), st.floats(-100, 100)),
        "weather": st.sampled_from(["rain", "sun", None]),
        "landed": st.integers(0, 200).map(at),
        "told": st.integers(0, 300).map(at),
    }
)
batch = st.lists(row, min_size=1, max_size=8, unique_by=lambda row: row["trip"])


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(batch, min_size=1, max_size=8))
def test_online_state_equals_offline_after_every_batch(
    monkeypatch: pytest.MonkeyPatch, batches: list[list[dict[str, object]]]
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 3)
    declared = wide_view()
    view = state.view_of(FeatureViewRegistered(feature_view=declared, version="v"), ends())
    operators = [operator(feature) for feature in declared.features]
    cutoffs = [at(second) for second in range(0, 330, 30)]
    asked = pa.table({"driver": [d for d in DRIVERS for _ in cutoffs], "cutoff": pa.array(cutoffs * 3, TIMESTAMP)})
    online, sent = MemoryState(), arrow_schema(ends()).empty_table()
    for rows in batches:
        table = pa.Table.from_pylist(rows, schema=arrow_schema(ends()))
        online.take(*state.changes(view, ends(), table, state.row_keys_of(ends(), table), online))
        sent = pa.concat_tables([sent, table])
        known = assembly.with_superseded(sent, ends())
        offline = assembly.ViewRows(feature_set(), 0, declared, ends(), known).features(asked)
        held = [online.packed('["ann"]'), online.packed('["bob"]')]
        code = np.repeat([0, 1, -1], len(cutoffs))
        cutoff = asked["cutoff"].cast(pa.int64()).to_numpy()
        found = Timeline(unpack(view.layout, held)).at(code, cutoff).compute(operators)
        for name, feature in zip(offline.column_names, found, strict=True):
            for here, there in zip(offline[name].to_pylist(), feature.values.tolist(), strict=True):
                if isinstance(here, float):
                    assert math.isclose(here, there, rel_tol=1e-9, abs_tol=1e-9), (name, here, there)
                else:
                    assert here == there or (here is None and there != there), (name, here, there)
