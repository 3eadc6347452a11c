"""The cache asks a store once in a moment, and what it holds is what the store would give."""

import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lineal.api.features.v1.feature_view_pb2 import AggregateFunction as Function
from lineal.api.tabular.v1.column_pb2 import Column
from services.features.lookup import Cache, Lookup, Prepared, Standing, answer, recall
from services.features.packing import Layout
from tabular.keys import NEVER
from tabular.operators import LAG, SINCE_LAST, Operator


class _Store:
    def __init__(self) -> None:
        self.moment: tuple[int, int] | None = (1, 0)
        self.rows = {"a": 1}
        self.asked: list[str] = []
        self.packed: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    @property
    def standing(self) -> Standing | None:
        return None if self.moment is None else Standing(self.moment, self.moment[0])

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        self.asked += entities
        return {(view, entity): (self.rows[entity],) for view in views for entity in entities if entity in self.rows}

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        return {key: self.packed[key] for key in wanted}

    def add(self, entity: str, event: int, delay: float) -> None:
        assert self.moment is not None
        self.moment = self.moment[0] + 1, 0
        self.rows[entity] = self.rows.get(entity, 0) + 1
        record = np.array([event, event + 2, NEVER, 0], dtype="<i8")
        record[3:] = np.array([delay]).view("<i8")
        numbers, texts = self.packed.get(("v", entity), (b"", b""))
        self.packed["v", entity] = numbers + record.tobytes(), texts + (b'["late"]\n' if delay > 5 else b"[null]\n")


def test_a_signature_is_asked_once_in_a_moment() -> None:
    cache, store = Cache(), _Store()
    for _ in range(2):
        assert cache.signatures(store, [("v", "a"), ("v", "b")]) == {("v", "a"): (1,), ("v", "b"): None}
    assert store.asked == ["a", "b"]


def test_a_signature_is_asked_again_when_the_cursor_moved_or_a_parked_event_was_applied() -> None:
    cache, store = Cache(), _Store()
    cache.signatures(store, [("v", "a")])
    for moment in ((2, 1), (2, 0)):
        store.moment, store.rows = moment, {"a": store.rows["a"] + 1}
        assert cache.signatures(store, [("v", "a")]) == {("v", "a"): (store.rows["a"],)}


def test_a_signature_is_asked_every_time_where_the_store_knows_no_moment() -> None:
    cache, store = Cache(), _Store()
    store.moment = None
    for _ in range(2):
        cache.signatures(store, [("v", "a")])
    assert store.asked == ["a", "a"]


OPERATORS = [
    Operator("n", "", Function.AGGREGATE_FUNCTION_COUNT, 20),
    Operator("sum", "delay", Function.AGGREGATE_FUNCTION_SUM, 7),
    Operator("now", "delay", None, max_age=9),
    Operator("kind", "kind", LAG, n=2),
    Operator("since", "", SINCE_LAST),
]
LOOKUP = Lookup("v", ["who"], [op.name for op in OPERATORS], OPERATORS, Layout(("delay",), ("kind",), 20, 2))
PREPARED = Prepared("s", {"who": pa.string()}, [LOOKUP])


def _who(*names: str, nulls: Sequence[int] = ()) -> list[Column]:
    column = Column(name="who", null_rows=nulls)
    column.strings.values.extend(names)
    return [column]


def test_what_is_recalled_is_what_would_be_read() -> None:
    chance, cache, store = random.Random(3), Cache(), _Store()
    store.rows.clear()
    recalled = 0
    for _ in range(600):
        if chance.random() < 0.1:
            store.add(f'["{chance.choice("abc")}"]', chance.randrange(100), float(chance.randrange(10)))
        names = chance.sample("abcd", chance.choice([1, 1, 3]))
        cutoffs = [chance.randrange(130) for _ in names] if chance.random() < 0.5 else [chance.randrange(130)]
        asked = _who(*names), cutoffs, len(names)
        expected = answer(PREPARED, store, Cache(), *asked)
        expected.position = store.moment[0] if store.moment else 0
        held = recall(PREPARED, cache, store.moment, *asked)
        if held is None:
            found = answer(PREPARED, store, cache, *asked)
            found.position = expected.position
            held = recall(PREPARED, cache, store.moment, *asked) if len(cutoffs) == 1 else found
            assert found.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
        else:
            recalled += 1
        assert held is not None
        assert held.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert recalled > 100


def test_nothing_is_recalled_once_the_store_moved() -> None:
    cache, store = Cache(), _Store()
    store.add('["a"]', 1, 2.0)
    asked = _who("a"), [9], 1
    assert recall(PREPARED, cache, store.moment, *asked) is None
    answer(PREPARED, store, cache, *asked)
    assert recall(PREPARED, cache, store.moment, *asked) is not None
    before, store.moment = store.moment, (9, 0)
    assert recall(PREPARED, cache, store.moment, *asked) is None
    answer(PREPARED, store, cache, *asked)
    # A reader that began before takes nothing back.
    store.moment = before
    answer(PREPARED, store, cache, *asked)
    assert recall(PREPARED, cache, before, *asked) is None
    assert recall(PREPARED, cache, (9, 0), *asked) is not None


def test_a_null_key_is_not_found_beside_others() -> None:
    store = _Store()
    store.add('["a"]', 1, 2.0)
    response = answer(PREPARED, store, Cache(), _who("a", "", nulls=[1]), [7], 2)
    assert [list(statuses) for statuses in response.statuses] == [[1, 3], [1, 3], [1, 3], [2, 3], [1, 3]]
    assert list(response.columns[3].null_rows) == [0, 1]
