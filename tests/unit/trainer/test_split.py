import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer import split


@given(st.lists(st.integers(0, 200), min_size=40, max_size=80), st.integers(0, 30))
def test_parts_follow_each_other_with_a_gap(cutoffs: list[int], gap: int) -> None:
    cutoff = np.array(cutoffs, dtype=np.int64)
    try:
        whole = split.by_time(cutoff, len(cutoff), 0.2, 0.2, 0)
        parts = split.by_time(cutoff, len(cutoff), 0.2, 0.2, 0, gap)
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
        split.by_time(np.arange(100), 100, 0.2, 0.2, 0, gap=90)
