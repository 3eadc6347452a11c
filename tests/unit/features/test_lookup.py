"""The cache asks a store for an entity's signature once in a moment, and again in the next."""

from collections.abc import Sequence

from services.features.lookup import Cache


class _Store:
    def __init__(self) -> None:
        self.moment: tuple[int, int] | None = (1, 0)
        self.rows = {"a": 1}
        self.asked: list[str] = []

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        self.asked += entities
        return {(view, entity): (self.rows[entity],) for view in views for entity in entities if entity in self.rows}

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        raise AssertionError(f"nobody reads the states of {wanted}")


def test_a_signature_is_asked_once_in_a_moment() -> None:
    cache, store = Cache(), _Store()
    for _ in range(2):
        assert cache.signatures(store, [("v", "a"), ("v", "b")]) == {("v", "a"): (1,)}
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
