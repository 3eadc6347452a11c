"""Compute features as of a cut-off: one implementation, used for training sets and online.

A row has an event time e (when it happened) and an available time a (when it could be known; never before e). It counts
for cut-off t and window w if and only if a <= t and e > t - w.

The insight everything here stands on: a row with a - e >= w never counts, since it leaves the window before it is
known. For all others, whoever has left the window (e <= t - w) was known before (a < e + w <= t). So the rows that
count are the known rows minus those that left, and

    aggregate(t) = prefix over available time up to t  -  prefix over event time up to t - w

is exact in any order of arrival, with two sorted prefix sums per entity and no two-dimensional search. See
docs/adr/0010-exact-windows-from-two-prefix-sums.md.

A row that a correction supersedes at s holds only until then: a <= t < s. It leaves every window by s, as if it had
happened at s - w: with min(e, s - w) for e the same two prefixes take the old version off from s on, when the new one
is added.

Times are int64 microseconds since 1970-01-01 UTC. Entities are codes from 0; -1 is an entity that is not known. Numbers
are doubles with NaN for null (infinities count as null); texts are objects with None for null.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lineal.api.features.v1 import feature_view_pb2 as views
from lineal.api.features.v1.features_service_pb2 import FieldStatus
from tabular import exact
from tabular.orders import Ints
from tabular.sorted_rows import FOREVER, STATIC_TIME, Rows, SortedRows, Values, missing

__all__ = [
    "FOREVER",
    "LAG",
    "SINCE_LAST",
    "STATIC_TIME",
    "Feature",
    "Moment",
    "Operator",
    "Rows",
    "Timeline",
    "elapsed",
    "operator",
]

Times = int | Ints
_EVER = np.iinfo(np.int64)

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
_LAST = int(views.AggregateFunction.AGGREGATE_FUNCTION_LAST)
_FIRST = int(views.AggregateFunction.AGGREGATE_FUNCTION_FIRST)
_DISTINCT = int(views.AggregateFunction.AGGREGATE_FUNCTION_DISTINCT)
_RATE = int(views.AggregateFunction.AGGREGATE_FUNCTION_RATE)
_SHARE_EQUALS = int(views.AggregateFunction.AGGREGATE_FUNCTION_SHARE_EQUALS)
# What is no aggregate over a window and no latest value.
LAG = -1
SINCE_LAST = -2

# A sum of squared distances below these shares of the window's and of the whole history's is rounding noise: 0.
_NOISE = 1e-24
_PREFIX_NOISE = 2.0**-98
# Rows looked at together by minimum and maximum.
_CHUNK_ROWS = 2_000_000


@dataclass(frozen=True)
class Operator:
    """A feature ready to compute: times in microseconds, `function` is None for a latest value.

    `n` is the lag of LAG; `equals` and `per` belong to SHARE_EQUALS and RATE.
    """

    name: str
    column: str
    function: int | None
    window: int = 0
    threshold: float = 0.0
    max_age: int | None = None
    equals: str = ""
    per: int = 0
    n: int = 1

    @property
    def picks(self) -> bool:
        """Whether its values are a column's own, which may be texts; all others are numbers."""
        return self.function in (None, LAG, _LAST, _FIRST)

    @property
    def scans(self) -> bool:
        """Whether it looks at each row of a window, not at sums at its ends."""
        return self.function in (_MIN, _MAX, _DISTINCT)


def operator(feature: views.Feature) -> Operator:
    """Make a valid feature ready to compute."""
    if feature.WhichOneof("kind") == "latest":
        limit = feature.latest.max_age.ToMicroseconds() if feature.latest.HasField("max_age") else None
        return Operator(feature.name, feature.latest.column, None, max_age=limit)
    if feature.WhichOneof("kind") == "lag":
        return Operator(feature.name, feature.lag.column, LAG, n=feature.lag.n)
    if feature.WhichOneof("kind") == "since_last":
        return Operator(feature.name, "", SINCE_LAST)
    aggregate = feature.aggregate
    return Operator(
        feature.name,
        aggregate.column,
        aggregate.function,
        aggregate.window.ToMicroseconds(),
        aggregate.threshold,
        equals=aggregate.equals,
        per=aggregate.per.ToMicroseconds(),
    )


def elapsed(cutoff: Times, event: Times) -> Any:
    """Return the seconds from an event to a cut-off."""
    return (cutoff - event) / 1e6


@dataclass(frozen=True)
class Feature:
    """Values of one feature for all queries, with a FieldStatus each (uint8)."""

    values: Values
    status: npt.NDArray[np.uint8]


class Timeline(SortedRows):
    """The rows of some entities, sorted once, answering any number of queries."""

    def at(self, entity: Ints, cutoff: Ints) -> "Moment":
        """Ask for entities at cut-offs, one query per element."""
        return Moment(self, entity, cutoff)


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
        self._newest: Ints | None = None
        self.found = self._until > self._start
        if timeline.superseded is not None:
            self.found = self.found & (self.newest() >= 0)
        self._left: dict[int, Ints] = {}
        self._counts: dict[tuple[str, int, float | None, str | None], Ints] = {}
        self._sums: dict[tuple[str, int, int], exact.Pair] = {}
        self._offset = bool(self._start.any())

    def compute(self, operators: Sequence[Operator]) -> list[Feature]:
        """Compute features, in order."""
        with np.errstate(all="ignore"):  # divisions by zero and overflows become null below
            return [self._compute(op) for op in operators]

    def spans(self, operators: Sequence[Operator]) -> tuple[Ints, Ints]:
        """Return from which and until before which cut-off each query's features are what they are.

        All but the time since the last row, which has the same last row. Something changes only when a row becomes
        known, leaves a window, is superseded or is too old.
        """
        timeline = self._timeline
        orders = [(timeline.by_available, timeline.available, self._until)]
        for window in {op.window for op in operators if op.window}:
            times = timeline.leaving(window) + window
            orders.append((timeline.by_leaving(window), times, self._left_window(window)))
        if timeline.superseded is not None:
            ended = timeline.by_superseded.until(self._entity, self._cutoff)
            orders.append((timeline.by_superseded, timeline.superseded, ended))
        since, until = (np.full(len(self._cutoff), bound) for bound in (_EVER.min, _EVER.max))
        for order, times, place in orders:
            passed = self._known & (place > self._start)
            since[passed] = np.maximum(since[passed], times[order.rows[place[passed] - 1]])
            coming = self._known & (place < order.end(self._entity))
            until[coming] = np.minimum(until[coming], times[order.rows[place[coming]]])
        for limit in {op.max_age for op in operators if op.max_age is not None}:
            old_from = np.full(len(self._cutoff), _EVER.min)
            old_from[self.found] = timeline.event[self.newest()[self.found]] + limit + 1
            old = self.found & (self._cutoff >= old_from)
            since[old] = np.maximum(since[old], old_from[old])
            fresh = self.found & ~old
            until[fresh] = np.minimum(until[fresh], old_from[fresh])
        return since, until

    def last_events(self) -> list[int | None]:
        """Return the event time of each query's latest row, None where there is none."""
        last: list[int | None] = [None] * len(self._cutoff)
        asked = np.flatnonzero(self.found)
        for query, event in zip(asked.tolist(), self._timeline.event[self.newest()[asked]].tolist(), strict=True):
            last[query] = event
        return last

    def newest(self) -> Ints:
        """Return the number of the latest row that holds for each query; only meaningful where `found`."""
        if self._newest is None:
            self._newest = np.full(len(self._until), -1, dtype=np.int64)
            asked = np.flatnonzero(self._until > self._start)
            self._newest[asked] = self._timeline.newest(self._entity[asked], self._until[asked], self._cutoff[asked])
        return self._newest

    def latest_row(self, query: int) -> Ints:
        """Return the number of the latest known row of one query, nothing where the entity is not known."""
        return self.newest()[query : query + 1] if self.found[query] else np.zeros(0, dtype=np.int64)

    def rows_of(self, op: Operator, query: int) -> Ints:
        """Return, ascending, the numbers of the rows that a feature of one query is computed from.

        Of an aggregate the rows of its window, also those whose column is null.
        """
        if op.function is None or op.function == SINCE_LAST:
            return self.latest_row(query)
        start = self._start[query]
        known = self._timeline.by_available.rows[start : self._until[query]]
        if op.function == LAG:
            if self._timeline.superseded is not None:
                known = known[self._timeline.superseded[known] > self._cutoff[query]]
            event, available = self._timeline.event[known], self._timeline.available[known]
            return np.sort(known[np.lexsort((known, available, event))[-op.n :]])
        left = self._timeline.by_leaving(op.window).rows[start : self._left_window(op.window)[query]]
        return np.setdiff1d(known, left)

    def _compute(self, op: Operator) -> Feature:
        if op.function is None:
            return self._latest(op)
        if op.function == SINCE_LAST:
            return self._since_last()
        if op.picks:
            return self._picked(op)
        return self._aggregate(op)

    def _since_last(self) -> Feature:
        values = np.full(len(self._cutoff), np.nan)
        found = self.found
        values[found] = elapsed(self._cutoff[found], self._timeline.event[self.newest()[found]])
        return Feature(values, np.where(found, _PRESENT, _NOT_FOUND).astype(np.uint8))

    def _picked(self, op: Operator) -> Feature:
        """Take the column's value of one row: the nth newest, or the newest or oldest of a window with a value."""
        timeline = self._timeline
        column = timeline.column(op.column)
        is_text = column.dtype == object
        values = np.full(len(self._cutoff), None if is_text else np.nan, dtype=object if is_text else np.float64)
        status = np.where(self.found, _NULL, _NOT_FOUND).astype(np.uint8)
        asked = np.flatnonzero(self.found)
        entity, cutoff = self._entity[asked], self._cutoff[asked]
        if op.function == _FIRST:
            row = timeline.first(op.column, entity, cutoff, op.window)
        elif op.function == _LAST:
            row = timeline.newest(entity, self._until[asked], cutoff, 1, op.column)
        else:
            row = timeline.newest(entity, self._until[asked], cutoff, op.n)
        mine = row >= 0
        if op.function == _LAST:
            mine &= timeline.event[row] > cutoff - op.window
        asked, row = asked[mine], row[mine]
        picked = column[row]
        present = ~missing(picked)
        values[asked[present]] = picked[present]
        status[asked[present]] = _PRESENT
        return Feature(values, status)

    def _latest(self, op: Operator) -> Feature:
        column = self._timeline.column(op.column)
        is_text = column.dtype == object
        values = np.full(len(self._cutoff), np.nan) if not is_text else np.full(len(self._cutoff), None, dtype=object)
        status = np.full(len(self._cutoff), _NOT_FOUND, dtype=np.uint8)
        row = self.newest()[self.found]
        picked = column[row]
        null = missing(picked)
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
        if op.function == _DISTINCT:
            return self._distinct(op)
        count = self._count(op).astype(np.float64)
        if op.function == _COUNT:
            return count
        if op.function == _RATE:
            return count * (op.per / op.window)
        if op.function == _SHARE_ABOVE:
            return self._count(op, above=op.threshold) / count
        if op.function == _SHARE_EQUALS:
            return self._count(op, equals=op.equals) / count
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
            left = self._timeline.by_leaving(window).until(self._entity, self._cutoff - window)
            self._left[window] = np.where(self._known, left, self._start)
        return self._left[window]

    def _count(self, op: Operator, above: float | None = None, equals: str | None = None) -> Ints:
        key = op.column, op.window, above, equals
        if key not in self._counts:
            known, left = self._timeline.counts(op.column, op.window, above, equals)
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
        numbers = self._timeline.numbers(op.column, op.window)[self._timeline.by_leaving(op.window).rows]
        neutral = np.inf if least else -np.inf
        values = np.full(len(self._cutoff), np.nan)
        for chunk, starts, places, known in self._windows(op.window):
            found = np.where(known & ~np.isnan(numbers[places]), numbers[places], neutral)
            values[chunk] = np.minimum.reduceat(found, starts) if least else np.maximum.reduceat(found, starts)
        return values

    def _distinct(self, op: Operator) -> npt.NDArray[np.float64]:
        codes = self._timeline.codes(op.column)
        different = int(codes.max(initial=-1)) + 1
        codes = codes[self._timeline.by_leaving(op.window).rows]
        values = np.zeros(len(self._cutoff))
        for chunk, starts, places, known in self._windows(op.window):
            query = np.repeat(np.arange(len(chunk)), np.diff(np.append(starts, len(places))))
            counted = known & (codes[places] >= 0)
            pairs = np.unique(query[counted] * different + codes[places[counted]])
            values[chunk] = np.bincount(pairs // max(different, 1), minlength=len(chunk))
        return values

    def _windows(self, window: int) -> Iterator[tuple[Ints, Ints, Ints, npt.NDArray[np.bool_]]]:
        """Yield queries with the places of their windows in the order of leaving them, and which rows there are known.

        With the queries comes where the places of each begin. Cut by total width, so that memory is bounded whatever
        the windows hold.
        """
        by_leaving = self._timeline.by_leaving(window)
        available = self._timeline.available[by_leaving.rows]
        first = self._left_window(window)
        width = by_leaving.until(self._entity, self._cutoff) - first
        asked = np.flatnonzero(self._known & (width > 0))
        groups = np.cumsum(width[asked]) // _CHUNK_ROWS
        for chunk in np.split(asked, np.flatnonzero(np.diff(groups)) + 1) if len(asked) else ():
            ends = np.cumsum(width[chunk])
            starts = ends - width[chunk]
            places = np.arange(ends[-1]) + np.repeat(first[chunk] - starts, width[chunk])
            yield chunk, starts, places, available[places] <= np.repeat(self._cutoff[chunk], width[chunk])
