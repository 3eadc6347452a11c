"""The rows that features are computed from, sorted once by both times, with prefixes that answer any cut-off.

Times are int64 microseconds since 1970-01-01 UTC. Entities are codes from 0. Numbers are doubles with NaN for null
(infinities count as null); texts are objects with None for null.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from tabular import exact
from tabular.orders import Earliest, Ints, Order, running_greatest

Values = npt.NDArray[Any]
T = TypeVar("T")

# Event and available time of the rows of a static dataset: known always.
STATIC_TIME = -(2**61)
# A cut-off after everything.
FOREVER = 2**61
# An available time after every cut-off.
_NEVER = 2**62


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset in log order, by column."""

    entity: Ints
    event: Ints
    available: Ints
    values: Mapping[str, Values]


class SortedRows:
    """The rows of some entities in the orders of both times, with prefix sums over either."""

    def __init__(self, rows: Rows) -> None:
        self.entity = rows.entity
        self.event = rows.event
        self.available = np.maximum(rows.available, rows.event)
        self._values = rows.values
        single = not len(rows.entity) or not rows.entity.any()
        self.single = single  # the only entity has code 0
        self.by_available = Order(rows.entity, self.available, single)
        self._by_event: Order | None = None
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

    def newest_known(self, n: int = 1, name: str = "") -> Ints:
        """Return, for each place in the order by available time, the nth newest row of the entity so far, or another's.

        The newest is the greatest by event time, then available time, then log order; of the rows whose column is not
        null, where one is named. Where there are too few it is -1 or a row of an earlier entity.
        """
        key = ("newest", n, name)
        if key not in self._prefixes:
            ranked, rank = self._ranks()
            ranks = rank[self.by_available.rows]
            if name:
                ranks = np.where(self._present(name)[self.by_available.rows], ranks, -1)
            # Ranks of a later entity are all greater: the greatest are its own as soon as it has so many.
            found = running_greatest(ranks, n)
            self._prefixes[key] = ranked[found] if n == 1 and not name else np.where(found >= 0, ranked[found], -1)
        newest: Ints = self._prefixes[key]
        return newest

    def first_known(self, name: str, start: Ints, cutoff: Ints) -> Ints:
        """Return the oldest row whose column is not null and that is known at a cut-off, from places in the order on.

        The order is that of `newest_known`; the row is another entity's or -1 where the entity has none.
        """
        ranked, _ = self._ranks()
        key = ("first", name)
        if key not in self._prefixes:
            self._prefixes[key] = Earliest(np.where(self._present(name), self.available, _NEVER)[ranked])
        place = self._prefixes[key].at_most(start, cutoff)
        return np.where(place < len(ranked), ranked[np.minimum(place, len(ranked) - 1)], -1)

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
                lambda order: np.concatenate(([0], np.cumsum(counted[order.rows])))
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
                lambda order: exact.prefix(parts.high[order.rows], parts.low[order.rows])
            )
        pair: tuple[exact.Pair, exact.Pair] = self._prefixes[key]
        return pair

    def _in_both_orders(self, prefix: Callable[[Order], T]) -> tuple[T, T]:
        # The fast path: where the two orders are one, so are the running sums.
        known = prefix(self.by_available)
        return known, known if self.by_event is self.by_available else prefix(self.by_event)

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
        # Windows longer than every delay exclude no row and share their prefixes.
        return window if self._worst_delay >= window else None

    def _countable(self, window: int) -> npt.NDArray[np.bool_]:
        return self.available - self.event < window


def missing(values: Values) -> npt.NDArray[np.bool_]:
    """Say which values are null."""
    if values.dtype == object:
        return np.fromiter((value is None for value in values), dtype=np.bool_, count=len(values))
    return ~np.isfinite(values.astype(np.float64))


def as_number(text: str) -> float:
    """Return the number that a declared text means in a column of numbers: `true` is 1. Raises ValueError."""
    return float(text == "true") if text in ("true", "false") else float(text)
