import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.features.buckets import buckets_of, cut

BUCKETS = 1_000_000

texts = st.lists(st.none() | st.text(max_size=40), min_size=1, max_size=30)


@given(texts)
def test_texts_share_a_bucket_where_they_are_equal_and_else_almost_never(values: list[str | None]) -> None:
    found = buckets_of([pa.chunked_array([values], pa.string())], BUCKETS).tolist()
    by_value: dict[str | None, set[int]] = {}
    for value, bucket in zip(values, found, strict=True):
        by_value.setdefault(value, set()).add(bucket)
    assert all(len(buckets) == 1 for buckets in by_value.values())
    assert len(set(found)) >= len(by_value) - 1


@given(texts, st.integers(0, 30))
def test_a_texts_bucket_does_not_depend_on_what_lies_around_it(values: list[str | None], at: int) -> None:
    whole = pa.array(values, pa.string())
    at = min(at, len(values))
    parted = pa.chunked_array([whole[:at], whole[at:]], pa.string())
    alone = [buckets_of([pa.chunked_array([[value]], pa.string())], BUCKETS)[0] for value in values]
    assert buckets_of([parted], BUCKETS).tolist() == alone
    assert buckets_of([pa.chunked_array([whole[at:]], pa.string())], BUCKETS).tolist() == alone[at:]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, -1, None, 2**62]),
        pa.array([True, False, None]),
        pa.array([0, 10, None], pa.timestamp("us", "UTC")),
        pa.array([0.5, -0.5, None]),
    ],
    ids=["integers", "truths", "instants", "numbers"],
)
def test_values_of_every_kind_of_key_have_buckets_of_their_own(values: pa.Array) -> None:
    twice = buckets_of([pa.chunked_array([values, values])], BUCKETS).tolist()
    assert twice[: len(values)] == twice[len(values) :]
    assert len(set(twice)) == len(values)


def test_keys_are_spread_evenly() -> None:
    keys = pa.chunked_array([[f"UA-{n}-EWR" for n in range(20_000)]])
    rows = np.bincount(buckets_of([keys], 17))
    assert len(rows) == 17
    assert rows.max() < 1.2 * rows.mean()


def test_no_rows_have_no_buckets() -> None:
    assert buckets_of([pa.chunked_array([], pa.string())], 3).tolist() == []


@given(st.lists(st.integers(0, 4), max_size=40))
def test_a_table_is_cut_without_loss_and_in_order(bucket: list[int]) -> None:
    table = pa.table({"row": np.arange(len(bucket)), "name": [str(n) for n in bucket]})
    parts = list(cut(table, np.array(bucket, dtype=np.int64), 5))
    assert [part["row"].to_pylist() for part in parts] == [
        [row for row, own in enumerate(bucket) if own == n] for n in range(5)
    ]
