from collections import Counter
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from services.features import steps

days = st.lists(st.dictionaries(st.integers(0, 12), st.integers(1, 9), max_size=8), min_size=1, max_size=4)


@given(days, st.integers(1, 30))
def test_slices_are_whole_days_in_order_and_leave_nothing_out(buckets: list[dict[int, int]], most: int) -> None:
    ordered = [sorted(bucket.items()) for bucket in buckets]
    cut = steps.slices(ordered, most)
    total = sum(map(Counter, buckets), Counter())
    assert all(len(part) == len(buckets) for part in cut)
    for n, bucket in enumerate(ordered):
        assert [part[n][0] for part in cut] == list(accumulate((part[n][1] for part in cut[:-1]), initial=0))
        assert sum(part[n][1] for part in cut) == sum(rows for _, rows in bucket)
    sizes = [sum(rows for _, rows in part) for part in cut]
    assert all(size <= most or size in total.values() for size in sizes)
    # The cut is that of all buckets together, however many there are.
    assert sizes == [part[0][1] for part in steps.slices([sorted(total.items())], most)]
