import math

import pyarrow as pa

from services.features.packing import layout_of, pack, unpack
from tabular.schema import arrow_schema
from tests.integration.features.world import at
from tests.unit.tabular.declarations import ends, view


def test_packed_rows_come_back_equal() -> None:
    layout = layout_of(view(), ends())
    assert (layout.numbers, layout.texts, layout.longest_window) == (("delay",), ("weather",), 100_000_000)
    row = {"trip": "a", "driver": "ann", "landed": at(0), "told": at(5)}
    rows = [{**row, "delay": 1.5, "weather": "line\u2028\nend"}, {**row, "delay": None, "weather": None}]
    records, lines = pack(layout, ends(), pa.Table.from_pylist(rows, schema=arrow_schema(ends())))
    states = [(records[:1].tobytes(), lines[0]), (b"", b""), (records[1:].tobytes(), lines[1])]
    back = unpack(layout, states)
    assert back.entity.tolist() == [0, 2]
    assert (back.available - back.event).tolist() == [5_000_000, 5_000_000]
    assert back.values["delay"][0] == 1.5
    assert math.isnan(back.values["delay"][1])
    assert back.values["weather"].tolist() == ["line\u2028\nend", None]


def test_no_state_at_all_unpacks_to_no_rows() -> None:
    assert len(unpack(layout_of(view(), ends()), []).event) == 0
