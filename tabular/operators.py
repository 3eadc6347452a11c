"""Compute features as of a cut-off: one implementation, used for training sets and online.

A row has an event time e (when it happened) and an available time a (when it could be known; never before e). It counts
for cut-off t and window w if and only if a <= t and e > t - w.

The insight everything here stands on: a row with a - e >= w never counts, since it leaves the window before it is
known. For all others, whoever has left the window (e <= t - w) was known before (a < e + w <= t). So the rows that
count are the known rows minus those that left, and

    aggregate(t) = prefix over available time up to t  -  prefix over event time up to t - w

is exact in any order of arrival, with two sorted prefix sums per entity and no two-dimensional search. See
docs/adr/0010-exact-windows-from-two-prefix-sums.md.

Times are int64 microseconds since 1970-01-01 UTC. Entities are codes from 0; -1 is an entity that is not known. Numbers
are doubles with NaN for null (infinities count as null); texts are objects with None for null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lineal.api.features.v1 import feature_view_pb2 as views
from lineal.api.features.v1.features_service_pb2 import FieldStatus
from tabular import exact

Ints = npt.NDArray[np.int64]
Values = npt.NDArray[Any]

# Event and available time of the rows of a static dataset: known always.
STATIC_TIME = -(2**61)
# A cut-off after everything.
FOREVER = 2**61

_PRESENT = int(FieldStatus.FIELD_STATUS_PRESENT)
_NULL = int(FieldStatus.FIELD_STATUS_NULL)
_NOT_FOUND = int(FieldStatus.FIELD_STATUS_NOT_FOUND)
_TOO_OLD = int(FieldStatus.FIELD_STATUS_TOO_OLD)

_COUNT = int(views.AggregateFunction.AGGREGATE_FUNCTION_COUNT)
_SUM = int(views.AggregateFunction.AGGREGATE_FUNCTION_SUM)
_MEAN = int(views.AggregateFunction.AGGREGATE_FUNCTION_MEAN)
_STD = int(views.AggregateFunction.AGGREGATE_FUNCTION_STD)
_MIN = int(views.AggregateFunction.AGGREGATE_FUNCTION_MIN)
_MAX = int(views.AggregateFunction.AGGREGATE_FUNCTION_MAX)
_SHARE_ABOVE = int(views.AggregateFunction.AGGREGATE_FUNCTION_SHARE_ABOVE)

# A sum of squared distances below these shares of the window's and of the whole history's is rounding noise: 0.
_NOISE = 1e-24
_PREFIX_NOISE = 2.0**-98
# Rows looked at together by minimum and maximum.
_CHUNK_ROWS = 2_000_000


@dataclass(frozen=True)
class Operator:
    """A feature ready to compute: times in microseconds, `function` is None for a latest value."""

    name: str
    column: str
    function: int | None
    window: int = 0
    threshold: float = 0.0
    max_age: int | None = None


def operator(feature: views.Feature) -> Operator:
    """Make a valid feature ready to compute."""
    if feature.WhichOneof("kind") == "latest":
        limit = feature.latest.max_age.ToMicroseconds() if feature.latest.HasField("max_age") else None
        return Operator(feature.name, feature.latest.column, None, max_age=limit)
    aggregate = feature.aggregate
    return Operator(
        feature.name, aggregate.column, aggregate.function, aggregate.window.ToMicroseconds(), aggregate.threshold
    )


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset in log order, by column."""

    entity: Ints
    event: Ints
    available: Ints
    values: Mapping[str, Values]


@dataclass(frozen=True)
class Feature:
    """Values of one feature for all queries, with a FieldStatus each (uint8)."""

    values: Values
    status: npt.NDArray[np.uint8]


class _Order:
    """Rows sorted by entity and one of the times, searchable by both at once."""

    def __init__(self, entity: Ints, time: Ints, single: bool) -> None:
        self._single = single
        # Ranks rather than times, so that entity and time fit one integer whatever the span of time.
        self._times = np.sort(time) if single else np.unique(time)
        self._base = len(self._times) + 1
        keys = time if single else entity * self._base + np.searchsorted(self._times, time)
        self.rows = np.argsort(keys, kind="stable")
        self._keys = self._times if single else keys[self.rows]

    def until(self, entity: Ints, time: Ints) -> Ints:
        """Count the rows sorted at or before each entity and time."""
        if self._single:
            return np.searchsorted(self._keys, time, side="right")
        rank = np.searchsorted(self._times, time, side="right") - 1
        return np.searchsorted(self._keys, entity * self._base + rank, side="right")

    def start(self, entity: Ints) -> Ints:
        """Count the rows of all entities before each."""
        if self._single:
            return np.zeros(len(entity), dtype=np.int64)
        return np.searchsorted(self._keys, entity * self._base, side="left")


class Timeline:
    """The rows of some entities, sorted once, answering any number of queries."""

    def __init__(self, rows: Rows) -> None:
        self.entity = rows.entity
        self.event = rows.event
        self.available = np.maximum(rows.available, rows.event)
        self._values = rows.values
        single = not len(rows.entity) or not rows.entity.any()
        self.single = single  # the only entity has code 0
        self.by_available = _Order(rows.entity, self.available, single)
        self._by_event: _Order | None = None
        self._newest: Ints | None = None
        self._prefixes: dict[tuple[object, ...], Any] = {}
        self._worst_delay = int((self.available - self.event).max()) if len(rows.entity) else 0

    @property
    def by_event(self) -> _Order:
        """The rows by event time."""
        if self._by_event is None:
            self._by_event = _Order(self.entity, self.event, self.single)
        return self._by_event

    def at(self, entity: Ints, cutoff: Ints) -> "Moment":
        """Ask for entities at cut-offs, one query per element."""
        return Moment(self, entity, cutoff)

    def newest_known(self) -> Ints:
        """Return, for each place in the order by available time, the newest row of the entity so far.

        The newest is the greatest by event time, then available time, then log order.
        """
        if self._newest is None:
            ranked = np.lexsort((self.available, self.event, self.entity))
            rank = np.empty(len(ranked), dtype=np.int64)
            rank[ranked] = np.arange(len(ranked))
            # Ranks of a later entity are all greater, so the running maximum never looks across entities.
            newest: Ints = ranked[np.maximum.accumulate(rank[self.by_available.rows])]
            self._newest = newest
        return self._newest

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

    def counts(self, name: str, window: int, above: float | None = None) -> tuple[Ints, Ints]:
        """Return prefix counts, by available and by event time, of the values (above a bound) that can count."""
        key = ("counts", name, self._late_window(window), above)
        if key not in self._prefixes:
            if not name:
                counted = self._countable(window)
            elif self._values[name].dtype == object:
                counted = ~_missing(self._values[name]) & self._countable(window)
            else:
                numbers = self.numbers(name, window)
                counted = ~np.isnan(numbers) if above is None else numbers > above
            self._prefixes[key] = tuple(
                np.concatenate(([0], np.cumsum(counted[order.rows]))) for order in (self.by_available, self.by_event)
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
            self._prefixes[key] = tuple(
                exact.prefix(parts.high[order.rows], parts.low[order.rows])
                for order in (self.by_available, self.by_event)
            )
        pair: tuple[exact.Pair, exact.Pair] = self._prefixes[key]
        return pair

    def _late_window(self, window: int) -> int | None:
        # Windows longer than every delay exclude no row and share their prefixes.
        return window if self._worst_delay >= window else None

    def _countable(self, window: int) -> npt.NDArray[np.bool_]:
        return self.available - self.event < window


def _missing(values: Values) -> npt.NDArray[np.bool_]:
    if values.dtype == object:
        return np.fromiter((value is None for value in values), dtype=np.bool_, count=len(values))
    return ~np.isfinite(values.astype(np.float64))


class Moment:
    """Queries against a timeline: the features of entities at cut-offs."""

    def __init__(self, timeline: Timeline, entity: Ints, cutoff: Ints) -> None:
        self._timeline = timeline
        self._cutoff = cutoff
        self._known = (entity == 0) if timeline.single else (entity >= 0)
        self._entity = np.where(self._known, entity, 0)
        self._start = timeline.by_available.start(self._entity)
        until = timeline.by_available.until(self._entity, cutoff)
        self._until = np.where(self._known, until, self._start)
        self.found = self._until > self._start
        self._left: dict[int, Ints] = {}
        self._counts: dict[tuple[str, int, float | None], Ints] = {}
        self._sums: dict[tuple[str, int, int], exact.Pair] = {}
        self._offset = bool(self._start.any())

    def compute(self, operators: Sequence[Operator]) -> list[Feature]:
        """Compute features, in order."""
        with np.errstate(all="ignore"):  # divisions by zero and overflows become null below
            return [self._latest(op) if op.function is None else self._aggregate(op) for op in operators]

    def newest(self) -> Ints:
        """Return the number of the latest known row of each query; only meaningful where `found`."""
        if not len(self._timeline.event):
            return np.zeros(len(self._until), dtype=np.int64)
        newest: Ints = self._timeline.newest_known()[np.maximum(self._until - 1, 0)]
        return newest

    def latest_row(self, query: int) -> Ints:
        """Return the number of the latest known row of one query, nothing where the entity is not known."""
        return self.newest()[query : query + 1] if self.found[query] else np.zeros(0, dtype=np.int64)

    def rows_of(self, op: Operator, query: int) -> Ints:
        """Return, ascending, the numbers of the rows that a feature of one query is computed from.

        Of an aggregate the rows of its window, also those whose column is null.
        """
        if op.function is None:
            return self.latest_row(query)
        start = self._start[query]
        known = self._timeline.by_available.rows[start : self._until[query]]
        left = self._timeline.by_event.rows[start : self._left_window(op.window)[query]]
        return np.setdiff1d(known, left)

    def _latest(self, op: Operator) -> Feature:
        column = self._timeline.column(op.column)
        is_text = column.dtype == object
        values = np.full(len(self._cutoff), np.nan) if not is_text else np.full(len(self._cutoff), None, dtype=object)
        status = np.full(len(self._cutoff), _NOT_FOUND, dtype=np.uint8)
        row = self.newest()[self.found]
        picked = column[row]
        null = _missing(picked)
        state = np.where(null, _NULL, _PRESENT).astype(np.uint8)
        if not is_text:
            picked = np.where(null, np.nan, picked)
        if op.max_age is not None:
            old = self._cutoff[self.found] - self._timeline.event[row] > op.max_age
            state[old] = _TOO_OLD
            picked = picked.copy()
            picked[old] = None if is_text else np.nan
        values[self.found] = picked
        status[self.found] = state
        return Feature(values, status)

    def _aggregate(self, op: Operator) -> Feature:
        values = self._value(op)
        values[~np.isfinite(values)] = np.nan
        status = np.where(self.found, np.where(np.isnan(values), _NULL, _PRESENT), _NOT_FOUND).astype(np.uint8)
        return Feature(values, status)

    def _value(self, op: Operator) -> npt.NDArray[np.float64]:
        if op.function in (_MIN, _MAX):
            return self._extreme(op, least=op.function == _MIN)
        count = self._count(op).astype(np.float64)
        if op.function == _COUNT:
            return count
        if op.function == _SHARE_ABOVE:
            return self._count(op, above=op.threshold) / count
        if op.function == _SUM:
            return np.where(count > 0, self._sum(op).high, np.nan)
        if op.function == _MEAN:
            return exact.divide(self._sum(op), count).high
        if op.function == _STD:
            squares = self._sum(op, power=2)
            spread = exact.subtract(squares, exact.divide(exact.square(self._sum(op, power=1)), count)).high
            noise = _NOISE * squares.high + _PREFIX_NOISE * self._timeline.sums(op.column, op.window, 2)[0].high[-1]
            return np.where(count > 1, np.sqrt(np.where(spread <= noise, 0.0, spread) / (count - 1)), np.nan)
        raise ValueError(f"feature {op.name!r}: no such aggregate function: {op.function}")

    def _left_window(self, window: int) -> Ints:
        if window not in self._left:
            left = self._timeline.by_event.until(self._entity, self._cutoff - window)
            self._left[window] = np.where(self._known, left, self._start)
        return self._left[window]

    def _count(self, op: Operator, above: float | None = None) -> Ints:
        key = op.column, op.window, above
        if key not in self._counts:
            known, left = self._timeline.counts(op.column, op.window, above)
            count: Ints = known[self._until] - left[self._left_window(op.window)]
            if self._offset:
                count = count - (known[self._start] - left[self._start])
            self._counts[key] = count
        return self._counts[key]

    def _sum(self, op: Operator, power: int = 0) -> exact.Pair:
        key = op.column, op.window, power
        if key not in self._sums:
            known, left = self._timeline.sums(op.column, op.window, power)
            total = exact.subtract(exact.pick(known, self._until), exact.pick(left, self._left_window(op.window)))
            if self._offset:
                before = exact.subtract(exact.pick(known, self._start), exact.pick(left, self._start))
                total = exact.subtract(total, before)
            self._sums[key] = total
        return self._sums[key]

    def _extreme(self, op: Operator, least: bool) -> npt.NDArray[np.float64]:
        numbers = self._timeline.numbers(op.column, op.window)
        rows = self._timeline.by_event.rows
        numbers, available = numbers[rows], self._timeline.available[rows]
        neutral = np.inf if least else -np.inf
        first = self._left_window(op.window)
        width = self._timeline.by_event.until(self._entity, self._cutoff) - first
        values = np.full(len(first), np.nan)
        asked = np.flatnonzero(self._known & (width > 0))
        # Cut by total width, so that memory is bounded whatever the windows hold.
        groups = np.cumsum(width[asked]) // _CHUNK_ROWS
        for chunk in np.split(asked, np.flatnonzero(np.diff(groups)) + 1) if len(asked) else ():
            ends = np.cumsum(width[chunk])
            starts = ends - width[chunk]
            index = np.arange(ends[-1]) + np.repeat(first[chunk] - starts, width[chunk])
            counted = (available[index] <= np.repeat(self._cutoff[chunk], width[chunk])) & ~np.isnan(numbers[index])
            found = np.where(counted, numbers[index], neutral)
            values[chunk] = np.minimum.reduceat(found, starts) if least else np.maximum.reduceat(found, starts)
        return values
