"""Find rows in the orders of time that features are cut by: sorted once, searched by arrays of queries."""

from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
# Keys below this leave room for the one after them.
_ROOM = 2**62


class Order:
    """Rows sorted by entity and one of the times, searchable by both at once."""

    def __init__(self, entity: Ints, time: Ints, single: bool) -> None:
        self._single = single
        self._low, self._high = (int(time.min()), int(time.max())) if len(time) else (0, 0)
        self._base = self._high - self._low + 2
        # Entity and time in one integer; where the span of time is too great for that, ranks take its place.
        self._times = np.unique(time) if self._base * (int(entity.max(initial=0)) + 2) >= _ROOM else None
        if self._times is not None:
            self._base = len(self._times) + 1
        keys = time if single else entity * self._base + self._place(time)
        self.rows = np.argsort(keys, kind="stable")
        self._keys = keys[self.rows]
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(entity)))) if not single else np.zeros(1, np.int64)

    def until(self, entity: Ints, time: Ints) -> Ints:
        """Count the rows sorted at or before each entity and time."""
        if self._single:
            return np.searchsorted(self._keys, time, side="right")
        return np.searchsorted(self._keys, entity * self._base + self._place(time), side="right")

    def start(self, entity: Ints) -> Ints:
        """Count the rows of all entities before each."""
        found: Ints = self._starts[np.minimum(entity, len(self._starts) - 1)]
        return found

    def end(self, entity: Ints) -> Ints:
        """Count the rows of each entity and of all before it."""
        return np.full(len(entity), len(self.rows)) if self._single else self.start(entity + 1)

    def _place(self, time: Ints) -> Ints:
        # -1 before all rows, so that it follows the last row of the entity before.
        if self._times is not None:
            return np.searchsorted(self._times, time, side="right") - 1
        return np.clip(time, self._low - 1, self._high) - self._low


def running_greatest(ranks: Ints, n: int) -> Ints:
    """Return, for each place, the nth greatest of the distinct ranks so far, -1 before there are so many.

    Each place passes on the lesser of what comes in and what was greatest: the nth greatest is the greatest of what the
    first n - 1 passed on.
    """
    for _ in range(n - 1):
        greatest = np.maximum.accumulate(ranks)
        ranks = np.minimum(ranks, np.concatenate((np.full(min(len(ranks), 1), -1), greatest[:-1])))
    found: Ints = np.maximum.accumulate(ranks)
    return found


def holding(
    entity: Ints, start: Ints, end: Ints, ranks: Ints, asked: Ints, time: Ints
) -> Iterator[tuple[int, list[int]]]:
    """Yield each query's number with the ranks, ascending, of its entity's rows that hold then: start <= time < end.

    `entity`, `start`, `end` and `ranks` are the rows', `asked` and `time` the queries'. A list is good until the next.
    """
    lasting = np.flatnonzero(start < end)
    kinds = np.repeat([0, 1, 2], [len(lasting), len(lasting), len(asked)])  # ends, starts, then queries of one time
    who = np.concatenate((entity[lasting], entity[lasting], asked))
    when = np.concatenate((end[lasting], start[lasting], time))
    what = np.concatenate((ranks[lasting], ranks[lasting], np.arange(len(asked))))
    order = np.lexsort((kinds, when, who))
    last, held = -1, list[int]()
    for one, kind, number in zip(who[order].tolist(), kinds[order].tolist(), what[order].tolist(), strict=True):
        if one != last:
            last, held = one, []
        if kind == 2:
            yield number, held
        elif kind == 1:
            insort(held, number)
        else:
            del held[bisect_left(held, number)]


class Earliest:
    """The first place, from a given one on, whose value is at most a bound: a tree of minima, exact in log time."""

    def __init__(self, values: Ints) -> None:
        self._levels: list[Ints] = [values]
        greatest = np.iinfo(np.int64).max
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            padded = np.append(below, greatest) if len(below) % 2 else below
            self._levels.append(np.minimum(padded[::2], padded[1::2]))

    def at_most(self, start: Ints, bound: Ints) -> Ints:
        """Return the first places; the number of values where there is none."""
        place = start.copy()
        reached = np.full(len(start), -1, dtype=np.int64)
        open_ = np.arange(len(start))
        for height, minima in enumerate(self._levels):
            # A node that misses passes on to its parent, or to its parent's neighbour where it was the last child.
            open_ = open_[place[open_] < len(minima)]
            hit = minima[place[open_]] <= bound[open_]
            reached[open_[hit]] = height
            open_ = open_[~hit]
            place[open_] = (place[open_] + 1) >> 1
        for height in range(len(self._levels) - 1, 0, -1):
            here = np.flatnonzero(reached >= height)
            left = place[here] << 1
            place[here] = left + (self._levels[height - 1][left] > bound[here])
        place[reached < 0] = len(self._levels[0])
        return place
