"""The rows that features are computed from, sorted once by both times, with prefixes that answer any cut-off.

Times are int64 microseconds since 1970-01-01 UTC. Entities are codes from 0. Numbers are doubles with NaN for null
(infinities count as null); texts are objects with None for null.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from tabular import exact
from tabular.keys import NEVER
from tabular.orders import Earliest, Ints, Order, holding, running_greatest

Values = npt.NDArray[Any]
T = TypeVar("T")

# Event and available time of the rows of a static dataset: known always.
STATIC_TIME = -(2**61)
# A cut-off after everything.
FOREVER = 2**61


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset in log order, by column.

    From `superseded` on another version of the row counts in its stead (NEVER where none does); None stands for rows
    of which none was corrected.
    """

    entity: Ints
    event: Ints
    available: Ints
    values: Mapping[str, Values]
    superseded: Ints | None = None


class SortedRows:
    """The rows of some entities in the orders of both times, with prefix sums over either."""

    def __init__(self, rows: Rows) -> None:
        self.entity = rows.entity
        self.event = rows.event
        self.available = np.maximum(rows.available, rows.event)
        self._values = rows.values
        corrected = rows.superseded is not None and bool((rows.superseded < NEVER).any())
        self.superseded = rows.superseded if corrected else None
        single = not len(rows.entity) or not rows.entity.any()
        self.single = single  # the only entity has code 0
        self.by_available = Order(rows.entity, self.available, single)
        self._by_event: Order | None = None
        self._by_superseded: Order | None = None
        self._by_leaving: dict[int, Order] = {}
        self._ranking: tuple[Ints, Ints] | None = None
        self._prefixes: dict[tuple[object, ...], Any] = {}
        self._worst_delay = int((self.available - self.event).max()) if len(rows.entity) else 0

    @property
    def by_event(self) -> Order:
        """The rows by event time; the order by available time itself where each row was known when it happened."""
        if self._by_event is None:
            in_order = self._worst_delay == 0
            self._by_event = self.by_available if in_order else Order(self.entity, self.event, self.single)
        return self._by_event

    @property
    def by_superseded(self) -> Order:
        """The rows by when another version takes their place; only meaningful where some were corrected."""
        assert self.superseded is not None
        if self._by_superseded is None:
            self._by_superseded = Order(self.entity, self.superseded, self.single)
        return self._by_superseded

    def by_leaving(self, window: int) -> Order:
        """Order the rows by when they leave a window, less its length: by event time, or superseded before that.

        Without corrections, the precondition of the fast path, it is the order by event time for every window.
        """
        if self.superseded is None:
            return self.by_event
        if window not in self._by_leaving:
            self._by_leaving[window] = Order(self.entity, self.leaving(window), self.single)
        return self._by_leaving[window]

    def leaving(self, window: int) -> Ints:
        """Return when each row leaves a window, less its length."""
        return self.event if self.superseded is None else np.minimum(self.event, self.superseded - window)

    def newest(self, entity: Ints, until: Ints, cutoff: Ints, n: int = 1, name: str = "") -> Ints:
        """Return the nth newest row that holds for each query, -1 where there are too few.

        The newest is the greatest by event time, then available time, then log order; of the rows whose column is not
        null, where one is named. `until` is where the order by available time ends for the query, after 0.
        """
        row = self._newest_known(n, name)[until - 1]
        if self.superseded is None:
            return np.where((row >= 0) & (self.entity[row] == entity), row, -1)
        ranked, rank = self._ranks()
        ranks = np.full((2 * n, len(until)), -1, dtype=np.int64)
        for place in range(n):
            row = self._newest_known(place + 1, name)[until - 1]
            ranks[place] = np.where((row >= 0) & (self.entity[row] == entity), rank[row], -1)
        corrected = self._corrected(name)
        for query, held in holding(*self._spans(corrected), rank[corrected], entity, cutoff):
            newest = held[-n:]
            ranks[n : n + len(newest), query] = newest
        nth = np.sort(ranks, axis=0)[-n]
        return np.where(nth >= 0, ranked[nth], -1)

    def first(self, name: str, entity: Ints, cutoff: Ints, window: int) -> Ints:
        """Return the oldest row of each query's window that holds and whose column is not null, -1 where there is none.

        The order is that of `newest`.
        """
        ranked, rank = self._ranks()
        key = ("first", name)
        if key not in self._prefixes:
            known = np.where(self._present(name) & self._lasting(), self.available, NEVER)
            self._prefixes[key] = Earliest(known[ranked])
        start = self.by_event.until(entity, cutoff - window)
        place = self._prefixes[key].at_most(start, cutoff)
        if self.superseded is not None:
            corrected = self._corrected(name)
            for query, held in holding(*self._spans(corrected), rank[corrected], entity, cutoff):
                oldest = bisect_left(held, start[query])
                if oldest < len(held):
                    place[query] = min(place[query], held[oldest])
        row = np.where(place < len(ranked), ranked[np.minimum(place, len(ranked) - 1)], -1)
        return np.where((row >= 0) & (self.entity[row] == entity), row, -1)

    def codes(self, name: str) -> Ints:
        """Return a number for each distinct value of a column, -1 where it is null."""
        key = ("codes", name)
        if key not in self._prefixes:
            self._prefixes[key] = np.where(self._present(name), pd.factorize(self._values[name])[0], -1)
        found: Ints = self._prefixes[key]
        return found

    def column(self, name: str) -> Values:
        """Return a column as it is."""
        return self._values[name]

    def numbers(self, name: str, window: int) -> npt.NDArray[np.float64]:
        """Return a column's numbers, NaN where null or where the row can never count for the window."""
        key = ("numbers", name, self._late_window(window))
        if key not in self._prefixes:
            values = self._values[name].astype(np.float64)
            values[~np.isfinite(values) | ~self._countable(window)] = np.nan
            self._prefixes[key] = values
        found: npt.NDArray[np.float64] = self._prefixes[key]
        return found

    def counts(
        self, name: str, window: int, above: float | None = None, equals: str | None = None
    ) -> tuple[Ints, Ints]:
        """Return prefix counts, by available and by event time, of the values that can count.

        Of all, or of those above a bound or equal to a value.
        """
        key = ("counts", name, self._late_window(window), above, equals)
        if key not in self._prefixes:
            if not name:
                counted = self._countable(window)
            elif self._values[name].dtype == object:
                chosen = self._present(name) if equals is None else self._values[name] == equals
                counted = chosen & self._countable(window)
            else:
                numbers = self.numbers(name, window)
                if equals is not None:
                    counted = numbers == as_number(equals)
                else:
                    counted = ~np.isnan(numbers) if above is None else numbers > above
            self._prefixes[key] = self._in_both_orders(
                window, lambda order: np.concatenate(([0], np.cumsum(counted[order.rows])))
            )
        pair: tuple[Ints, Ints] = self._prefixes[key]
        return pair

    def sums(self, name: str, window: int, power: int) -> tuple[exact.Pair, exact.Pair]:
        """Return prefix sums, by available and by event time, of what can count.

        Of the values for power 0, else of the first or second powers of their distances from the column's centre: a
        standard deviation far from 0 would drown in the squares of its mean.
        """
        key = ("sums", name, self._late_window(window), power)
        if key not in self._prefixes:
            numbers = self.numbers(name, window)
            counted = ~np.isnan(numbers)
            parts = exact.Pair(numbers, np.zeros(len(numbers)))
            if power and counted.any():
                parts = exact.two_sum(numbers, np.full(len(numbers), -numbers[counted].mean()))
            if power == 2:
                parts = exact.square(parts)
            parts = exact.Pair(np.where(counted, parts.high, 0.0), np.where(counted, parts.low, 0.0))
            self._prefixes[key] = self._in_both_orders(
                window, lambda order: exact.prefix(parts.high[order.rows], parts.low[order.rows])
            )
        pair: tuple[exact.Pair, exact.Pair] = self._prefixes[key]
        return pair

    def _in_both_orders(self, window: int, prefix: Callable[[Order], T]) -> tuple[T, T]:
        # The fast path: where the two orders are one, so are the running sums.
        known, leaving = prefix(self.by_available), self.by_leaving(window)
        return known, known if leaving is self.by_available else prefix(leaving)

    def _newest_known(self, n: int, name: str) -> Ints:
        """Return, for each place in the order by available time, the nth newest row of the entity so far, or another's.

        Of the rows that are never superseded. Where there are too few it is -1 or a row of an earlier entity.
        """
        key = ("newest", n, name)
        if key not in self._prefixes:
            ranked, rank = self._ranks()
            ranks = rank[self.by_available.rows]
            every = self.superseded is None and not name
            if not every:
                chosen = self._lasting() if not name else self._lasting() & self._present(name)
                ranks = np.where(chosen[self.by_available.rows], ranks, -1)
            # Ranks of a later entity are all greater: the greatest are its own as soon as it has so many.
            found = running_greatest(ranks, n)
            self._prefixes[key] = ranked[found] if n == 1 and every else np.where(found >= 0, ranked[found], -1)
        newest: Ints = self._prefixes[key]
        return newest

    def _corrected(self, name: str) -> Ints:
        chosen = ~self._lasting() if not name else ~self._lasting() & self._present(name)
        return np.flatnonzero(chosen)

    def _spans(self, rows: Ints) -> tuple[Ints, Ints, Ints]:
        assert self.superseded is not None
        return self.entity[rows], self.available[rows], self.superseded[rows]

    def _lasting(self) -> npt.NDArray[np.bool_]:
        return np.ones(len(self.event), dtype=np.bool_) if self.superseded is None else self.superseded == NEVER

    def _ranks(self) -> tuple[Ints, Ints]:
        """Return the rows by entity, event time, available time and log order, and the place of each row there."""
        if self._ranking is None:
            ranked = np.lexsort((self.available, self.event, self.entity))
            rank = np.empty(len(ranked), dtype=np.int64)
            rank[ranked] = np.arange(len(ranked))
            self._ranking = ranked, rank
        return self._ranking

    def _present(self, name: str) -> npt.NDArray[np.bool_]:
        key = ("present", name)
        if key not in self._prefixes:
            self._prefixes[key] = ~missing(self._values[name])
        found: npt.NDArray[np.bool_] = self._prefixes[key]
        return found

    def _late_window(self, window: int) -> int | None:
        # Windows longer than every delay exclude no row and share their prefixes, unless rows leave them early.
        return window if self.superseded is not None or self._worst_delay >= window else None

    def _countable(self, window: int) -> npt.NDArray[np.bool_]:
        return self.available - self.leaving(window) < window


def missing(values: Values) -> npt.NDArray[np.bool_]:
    """Say which values are null."""
    if values.dtype == object:
        return np.fromiter((value is None for value in values), dtype=np.bool_, count=len(values))
    return ~np.isfinite(values.astype(np.float64))


def as_number(text: str) -> float:
    """Return the number that a declared text means in a column of numbers: `true` is 1. Raises ValueError."""
    return float(text == "true") if text in ("true", "false") else float(text)
