import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer import split


@given(st.lists(st.integers(0, 200), min_size=40, max_size=80), st.integers(0, 30))
def test_parts_follow_each_other_with_a_gap(cutoffs: list[int], gap: int) -> None:
    cutoff = np.array(cutoffs, dtype=np.int64)
    try:
        whole = split.by_time(cutoff, 0.2, 0.2)
        parts = split.by_time(cutoff, 0.2, 0.2, gap)
    except split.TooFewRows:
        return
    assert parts.test.tolist() == whole.test.tolist()
    for part, full, later in (
        (parts.train, whole.train, whole.validation),
        (parts.validation, whole.validation, whole.test),
    ):
        start = cutoff[later].min()
        assert sorted(part.tolist()) == sorted(n for n in full.tolist() if gap == 0 or cutoff[n] <= start - gap)


def test_a_gap_over_everything_is_refused() -> None:
    with pytest.raises(split.TooFewRows, match="shorter"):
        split.by_time(np.arange(100), 0.2, 0.2, gap=90)


def test_without_times_a_row_stays_untouched_in_every_later_table() -> None:
    first = pa.table({"id": np.arange(400)})
    later = pa.table({"id": np.arange(1000)[::-1]})
    parts, more = split.by_key(first, 0.2, 0.3), split.by_key(later, 0.2, 0.4)
    assert sorted(np.concatenate([parts.train, parts.validation, parts.test]).tolist()) == list(range(400))
    assert 80 < len(parts.test) < 160
    assert 50 < len(parts.validation) < 110
    assert set(parts.test.tolist()) <= set(later["id"].to_numpy()[more.test].tolist())
    assert np.flatnonzero(split.untouched(first, 0.3)).tolist() == parts.test.tolist()
