from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from services.serving.search import MOST_SCORED, Changes, Option, Score, Search

# Gains of each column's options, nearest first.
Gains = list[list[float]]
GAINS = st.lists(st.lists(st.floats(-1, 1), max_size=4), min_size=1, max_size=4)


def options_of(gains: Gains) -> list[list[Option]]:
    return [
        [Option(column, (number + 1) / 10, float(number)) for number in range(len(each))]
        for column, each in enumerate(gains)
    ]


def scoring(flips: Callable[[Changes], bool], near: Callable[[Changes], float] = len) -> Score:
    """Return a score, as the search takes it, of one change at a time."""

    def score(changes: Sequence[Changes]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        nearness = np.array([near(each) for each in changes], dtype=float)
        return nearness, np.array([flips(each) for each in changes], dtype=bool)

    return score


def summed(gains: Gains) -> Callable[[Changes], float]:
    return lambda changes: sum(gains[option.column][int(option.value)] for option in changes)


def searched(gains: Gains, threshold: float, most: int) -> tuple[Search, list[Changes]]:
    total = summed(gains)
    search = Search(options_of(gains), scoring(lambda changes: total(changes) > threshold, total))
    return search, search.run(most)


@given(GAINS, st.floats(0, 2), st.integers(1, 10))
def test_what_is_found_flips_and_cannot_be_made_smaller(gains: Gains, threshold: float, most: int) -> None:
    search, found = searched(gains, threshold, most)
    assert len(found) <= most
    assert not search.exhausted
    columns = [{option.column for option in changes} for changes in found]
    assert not any(one <= other for one in columns for other in columns if one is not other)
    for changes in found:
        assert len(columns[found.index(changes)]) == len(changes)
        assert summed(gains)(changes) > threshold
        for number, option in enumerate(changes):
            others = changes[:number] + changes[number + 1 :]
            smaller = [others, *((*others, each) for each in search.options[option.column] if each < option)]
            assert not any(each and summed(gains)(each) > threshold for each in smaller)
    assert found == searched(gains, threshold, most)[1]


@given(GAINS, st.floats(0, 2))
def test_of_sums_the_fewest_columns_that_are_enough_are_found(gains: Gains, threshold: float) -> None:
    """Brute force knows how few they are; the greatest gains of columns are in the front of each."""
    _, found = searched(gains, threshold, 1)
    choices = product(*([(), *((option,) for option in each)] for each in options_of(gains)))
    every = [sum(choice, ()) for choice in choices]
    enough = [changes for changes in every if changes and summed(gains)(changes) > threshold]
    assert len(found) == (1 if enough else 0)
    if enough:
        assert len(found[0]) == min(len(changes) for changes in enough)


def test_columns_that_are_enough_alone_are_all_found_and_combined_no_more() -> None:
    alone = {0, 1}
    _, found = searched([[1.0], [1.0], [0.6], [0.6], [0.1]], 0.9, 10)
    columns = [{option.column for option in changes} for changes in found]
    assert columns[:3] == [{0}, {1}, {2, 3}]
    assert not any(alone & each for each in columns[2:])


def test_what_works_only_together_is_found() -> None:
    """As where a tree asks of a column only what lies behind another's split."""
    options = options_of([[0.0], [0.0], [0.0]])
    search = Search(options, scoring(lambda changes: {0, 2} <= {option.column for option in changes}, lambda _: 0.0))
    assert search.run(3) == [(options[0][0], options[2][0])]


def test_a_search_ends_at_its_limit_and_says_so() -> None:
    options = options_of([[0.0] * 200] * 400)
    search = Search(options, scoring(lambda _: False))
    assert search.run(3) == []
    assert search.exhausted
    assert search.scored <= MOST_SCORED


def test_nothing_may_be_changed_where_there_are_no_options() -> None:
    search = Search([[], []], scoring(lambda _: True))
    assert search.run(3) == []
    assert (search.scored, search.exhausted) == (0, False)
