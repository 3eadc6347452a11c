import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineal.api.features.v1.feature_view_pb2 import AggregateFunction
from services.features import chunks
from services.features.chunks import NO_EVENT, Chunk, forgettable, grown
from services.features.packing import Layout, unpack
from tabular.keys import NEVER
from tabular.operators import LAG, SINCE_LAST, STATIC_TIME, Operator, Timeline

WINDOW = 12
LAYOUT = Layout(numbers=("x",), texts=(), longest_window=WINDOW)
LAGGED = Layout(numbers=("x",), texts=(), longest_window=WINDOW, lag=3)
OPERATORS = [
    Operator("n", "", AggregateFunction.AGGREGATE_FUNCTION_COUNT, WINDOW),
    Operator("m", "x", AggregateFunction.AGGREGATE_FUNCTION_MEAN, WINDOW),
    Operator("s", "x", AggregateFunction.AGGREGATE_FUNCTION_STD, 5),
    Operator("hi", "x", AggregateFunction.AGGREGATE_FUNCTION_MAX, WINDOW),
    Operator("last", "x", None),
    Operator("fresh", "x", None, max_age=7),
    Operator("third", "x", LAG, n=3),
    Operator("since", "", SINCE_LAST),
    Operator("first", "x", AggregateFunction.AGGREGATE_FUNCTION_FIRST, WINDOW),
    Operator("end", "x", AggregateFunction.AGGREGATE_FUNCTION_LAST, 5),
    Operator("kinds", "x", AggregateFunction.AGGREGATE_FUNCTION_DISTINCT, WINDOW),
]

Row = tuple[int, int, float]


def records(rows: list[Row]) -> npt.NDArray[np.int64]:
    matrix = np.empty((len(rows), 4), dtype="<i8")
    for n, (event, delay, x) in enumerate(rows):
        matrix[n] = event, event + delay, NEVER, np.float64(x).view(np.int64)
    return matrix


class State:
    """An entity's chunks as a store would keep them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.chunks: dict[int, Chunk] = {}

    def add(self, rows: list[Row]) -> None:
        old = list(self.chunks.values())
        for chunk in grown(old[-1] if old else None, records(rows), []):
            self.chunks[chunk.number] = chunk
        for number in forgettable(self.layout, list(self.chunks.values())):
            del self.chunks[number]

    def timeline(self) -> Timeline:
        return Timeline(unpack(LAYOUT, [(b"".join(c.numbers for c in self.chunks.values()), b"")]))


row = st.tuples(st.integers(0, 90), st.sampled_from([0, 0, 1, 3, 20, 60]), st.floats(-100, 100))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(row, min_size=1, max_size=9), min_size=1, max_size=12), st.booleans())
def test_forgetting_changes_no_answer_from_the_horizon_on(
    monkeypatch: pytest.MonkeyPatch, batches: list[list[Row]], in_order: bool
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 4)
    monkeypatch.setattr(chunks, "MARGIN", 6)
    if in_order:
        flat = sorted((r for batch in batches for r in batch), key=lambda r: r[0] + r[1])
        batches = [flat[start : start + 5] for start in range(0, len(flat), 5)]
    state, everything = State(LAGGED), []
    for batch in batches:
        state.add(batch)
        everything += batch
        newest = max(event + delay for event, delay, _ in everything)
        cutoffs = np.arange(newest - 6, newest + 20)
        zeros = np.zeros(len(cutoffs), dtype=np.int64)
        whole = Timeline(unpack(LAYOUT, [(records(everything).tobytes(), b"")]))
        kept = state.timeline().at(zeros, cutoffs).compute(OPERATORS)
        full = whole.at(zeros, cutoffs).compute(OPERATORS)
        for one, other in zip(kept, full, strict=True):
            assert one.status.tolist() == other.status.tolist()
            for a, b in zip(one.values.tolist(), other.values.tolist(), strict=True):
                assert math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (a != a and b != b)


def test_rows_long_past_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 4)
    monkeypatch.setattr(chunks, "MARGIN", 6)
    state = State(LAYOUT)
    for event in range(500):
        state.add([(event, 0, 1.0)])
    assert sum(chunk.rows for chunk in state.chunks.values()) < WINDOW + 6 + 3 * 4


def test_lags_keep_as_many_known_chunks_as_they_look_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 4)
    monkeypatch.setattr(chunks, "MARGIN", 6)
    state = State(Layout(numbers=("x",), texts=(), longest_window=0, lag=5))
    for event in range(500):
        state.add([(event, 0, float(event))])
    assert len(state.chunks) <= 5 + 3
    fifth = state.timeline().at(np.zeros(1, dtype=np.int64), np.array([499])).compute([Operator("f", "x", LAG, n=5)])[0]
    assert fifth.values.tolist() == [495.0]


def test_of_a_static_dataset_only_the_newest_chunk_is_kept() -> None:
    static = [Chunk(n, chunks.CHUNK_ROWS, STATIC_TIME, STATIC_TIME, STATIC_TIME) for n in range(3)]
    assert forgettable(LAYOUT, static) == [0, 1]
    static[2] = replace(static[2], lasting_event=NO_EVENT)
    assert forgettable(LAYOUT, static) == [0]


def test_chunks_are_filled_before_a_new_one_begins() -> None:
    rows: list[Row] = [(n, 0, float(n)) for n in range(300)]
    first = grown(None, records(rows[:100]), [])
    assert [(chunk.number, chunk.rows) for chunk in first] == [(1, 100)]
    more = grown(first[0], records(rows[100:]), [])
    assert [(chunk.number, chunk.rows) for chunk in more] == [(1, 128), (2, 128), (3, 44)]
    assert b"".join(chunk.numbers for chunk in more) == records(rows).tobytes()
    assert [chunks.place_of(row) for row in (0, 127, 128, 299)] == [(1, 0), (1, 127), (2, 0), (3, 43)]
    assert (chunks.next_row(None), chunks.next_row(more[-1])) == (0, 300)
