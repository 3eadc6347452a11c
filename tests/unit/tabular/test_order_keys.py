import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabular import orders
from tabular.orders import Order
from tabular.sorted_rows import Rows, SortedRows

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=30)
asked = st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9)), min_size=1, max_size=10)


@pytest.mark.parametrize("room", [0, 2**62])
@given(rows=rows, asked=asked)
def test_rows_are_counted_up_to_a_time_of_an_entity(
    room: int, rows: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    entity, time = (np.array([row[n] for row in rows], dtype=np.int64) for n in (0, 1))
    codes, times = (np.array([query[n] for query in asked], dtype=np.int64) for n in (0, 1))
    # Without room for times beside entities, ranks take their place.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "_ROOM", room)
        order = Order(entity, time, single=False)
    known = [sum(e < q or (e == q and t <= at) for e, t in rows) for q, at in asked]
    before = [sum(e < q for e, _ in rows) for q, _ in asked]
    assert order.until(codes, times).tolist() == known
    assert order.start(codes).tolist() == before
    assert [rows[n] for n in order.rows] == sorted(rows)


def test_one_order_serves_where_every_row_was_known_when_it_happened() -> None:
    event = np.array([3, 1, 2])
    values = {"x": np.array([1.0, 2.0, 3.0])}
    prompt = SortedRows(Rows(np.zeros(3, dtype=np.int64), event, event, values))
    late = SortedRows(Rows(np.zeros(3, dtype=np.int64), event, event + np.array([0, 5, 0]), values))
    assert prompt.by_event is prompt.by_available
    assert prompt.sums("x", 10, 0)[0] is prompt.sums("x", 10, 0)[1]
    assert late.by_event is not late.by_available
