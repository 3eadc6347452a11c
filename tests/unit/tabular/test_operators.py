import math
import os
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineal.api.features.v1 import feature_view_pb2 as views
from lineal.api.features.v1.features_service_pb2 import FieldStatus
from tabular.keys import superseded
from tabular.operators import LAG, SINCE_LAST, Operator, Rows, Timeline, operator

FN = views.AggregateFunction
AGGREGATES = [
    FN.AGGREGATE_FUNCTION_COUNT,
    FN.AGGREGATE_FUNCTION_SUM,
    FN.AGGREGATE_FUNCTION_MEAN,
    FN.AGGREGATE_FUNCTION_STD,
    FN.AGGREGATE_FUNCTION_MIN,
    FN.AGGREGATE_FUNCTION_MAX,
    FN.AGGREGATE_FUNCTION_SHARE_ABOVE,
    FN.AGGREGATE_FUNCTION_LAST,
    FN.AGGREGATE_FUNCTION_FIRST,
    FN.AGGREGATE_FUNCTION_DISTINCT,
    FN.AGGREGATE_FUNCTION_RATE,
    FN.AGGREGATE_FUNCTION_SHARE_EQUALS,
]
OF_ANY = [FN.AGGREGATE_FUNCTION_COUNT, *AGGREGATES[-5:]]

# How many examples each property is tried on; the suite's own time is kept short.
EXAMPLES = int(os.environ.get("LINEAL_TEST_EXAMPLES", "200"))

# Entity, event time, available time, number, text, row key.
Row = tuple[int, int, int, float, str | None, int]


def counting(rows: list[Row], entity: int, cutoff: int) -> list[int]:
    """Say which rows of an entity count at a cut-off: of each key the version that was known last, if it is there."""
    versions: dict[int, tuple[int, int]] = {}
    for n, (_, e, a, _, _, key) in enumerate(rows):
        if max(a, e) <= cutoff:
            versions[key] = max(versions.get(key, (-99, -1)), (max(a, e), n))
    return sorted(n for _, n in versions.values() if rows[n][0] == entity)


def naive(rows: list[Row], op: Operator, entity: int, cutoff: int) -> float | str | None:
    """Say what a feature is in the plainest way: look at every row."""
    known = [(e, max(a, e), n, x, s) for n in counting(rows, entity, cutoff) for _, e, a, x, s, _ in [rows[n]]]
    if op.function is None:
        if not known:
            return None
        newest = max(known, key=lambda row: row[:3])
        if op.max_age is not None and cutoff - newest[0] > op.max_age:
            return None
        return plain(newest[3] if op.column == "x" else newest[4])
    if op.function == SINCE_LAST:
        return (cutoff - max(known)[0]) / 1e6 if known else None
    if op.function == LAG:
        lagged = sorted(known, key=lambda row: row[:3])[-op.n :]
        return plain(lagged[0][3] if op.column == "x" else lagged[0][4]) if len(lagged) == op.n else None
    window = [row for row in known if row[0] > cutoff - op.window]
    window.sort(key=lambda row: row[:3])
    cells = [value for row in window if (value := plain(row[3] if op.column == "x" else row[4])) is not None]
    match op.function:
        case FN.AGGREGATE_FUNCTION_LAST:
            return cells[-1] if cells else None
        case FN.AGGREGATE_FUNCTION_FIRST:
            return cells[0] if cells else None
        case FN.AGGREGATE_FUNCTION_DISTINCT:
            return float(len(set(cells)))
        case FN.AGGREGATE_FUNCTION_RATE:
            return (len(cells) if op.column else len(window)) * op.per / op.window
        case FN.AGGREGATE_FUNCTION_SHARE_EQUALS:
            wanted = float(op.equals) if op.column == "x" else op.equals
            return sum(cell == wanted for cell in cells) / len(cells) if cells else None
    if not op.column:
        return float(len(window))
    if op.column == "s":
        return float(len(cells))
    xs = [row[3] for row in window if not math.isnan(row[3])]
    match op.function:
        case FN.AGGREGATE_FUNCTION_COUNT:
            return float(len(xs))
        case FN.AGGREGATE_FUNCTION_SUM:
            return math.fsum(xs) if xs else None
        case FN.AGGREGATE_FUNCTION_MEAN:
            return math.fsum(xs) / len(xs) if xs else None
        case FN.AGGREGATE_FUNCTION_STD:
            return statistics.stdev(xs) if len(xs) > 1 else None
        case FN.AGGREGATE_FUNCTION_MIN:
            return min(xs, default=None)
        case FN.AGGREGATE_FUNCTION_MAX:
            return max(xs, default=None)
        case _:
            return sum(x > op.threshold for x in xs) / len(xs) if xs else None


def plain(value: float | str | None) -> float | str | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def timeline(rows: list[Row]) -> Timeline:
    entity, event, available, x, s, key = zip(*rows, strict=True) if rows else ((), (), (), (), (), ())
    _, code = np.unique(np.array(key, dtype=np.int64), return_inverse=True)
    until = superseded(code, np.maximum(np.array(event, dtype=np.int64), np.array(available, dtype=np.int64)))
    texts = np.empty(len(rows), dtype=object)
    texts[:] = s
    return Timeline(
        Rows(
            np.array(entity, dtype=np.int64),
            np.array(event, dtype=np.int64),
            np.array(available, dtype=np.int64),
            {"x": np.array(x, dtype=np.float64), "s": texts},
            until,
        )
    )


def same(value: object, expected: float | str | None) -> bool:
    if expected is None or isinstance(expected, str):
        return value == expected or (expected is None and isinstance(value, float) and math.isnan(value))
    assert isinstance(value, float)
    return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12)


times = st.integers(min_value=0, max_value=30)
numbers = st.one_of(st.floats(min_value=-1e6, max_value=1e6), st.sampled_from([0.1, 1.0, math.nan, 5e5]))
entities, texts_ = st.integers(0, 3), st.sampled_from(["a", "b", None])


def unique(rows: list[Row]) -> list[Row]:
    return [(*row[:5], n) for n, row in enumerate(rows)]


corrected = st.lists(
    st.tuples(entities, times, st.integers(-3, 45), numbers, texts_, st.one_of(st.integers(0, 3), st.integers(0, 40))),
    max_size=40,
)
# Without corrections as often as with them: both ways must be right.
histories = st.one_of(corrected, corrected.map(unique))
operators = st.one_of(
    st.builds(
        Operator,
        name=st.just("f"),
        column=st.just("x"),
        function=st.sampled_from(AGGREGATES),
        window=st.integers(1, 35),
        threshold=st.sampled_from([-1.0, 0.1, 100.0]),
        equals=st.sampled_from(["0.1", "1"]),
        per=st.integers(1, 40),
    ),
    st.builds(
        Operator,
        name=st.just("f"),
        column=st.just("s"),
        function=st.sampled_from(OF_ANY),
        window=st.integers(1, 35),
        equals=st.sampled_from(["a", "c"]),
        per=st.integers(1, 40),
    ),
    st.builds(
        Operator, name=st.just("f"), column=st.sampled_from(["x", "s"]), function=st.just(LAG), n=st.integers(1, 5)
    ),
    st.builds(Operator, name=st.just("f"), column=st.just(""), function=st.just(SINCE_LAST)),
    st.builds(
        Operator,
        name=st.just("f"),
        column=st.just(""),
        function=st.sampled_from([FN.AGGREGATE_FUNCTION_COUNT, FN.AGGREGATE_FUNCTION_RATE]),
        window=st.integers(1, 35),
        per=st.integers(1, 40),
    ),
    st.builds(
        Operator,
        name=st.just("f"),
        column=st.sampled_from(["x", "s"]),
        function=st.none(),
        max_age=st.one_of(st.none(), st.integers(0, 20)),
    ),
)
queries = st.lists(st.tuples(st.integers(-1, 4), st.integers(-2, 60)), min_size=1, max_size=12)


@settings(max_examples=2 * EXAMPLES)
@given(histories, st.lists(operators, min_size=1, max_size=4), queries)
def test_features_equal_the_naive_reference(rows: list[Row], ops: list[Operator], asked: list[tuple[int, int]]) -> None:
    entity, cutoff = (np.array(part, dtype=np.int64) for part in zip(*asked, strict=True))
    answers = timeline(rows).at(entity, cutoff).compute(ops)
    for op, answer in zip(ops, answers, strict=True):
        for (k, t), value in zip(asked, answer.values.tolist(), strict=True):
            assert same(value, naive(rows, op, k, t)), (op, k, t, value)


@settings(max_examples=EXAMPLES)
@given(histories, operators, queries)
def test_a_feature_comes_of_its_rows_alone(rows: list[Row], op: Operator, asked: list[tuple[int, int]]) -> None:
    whole = timeline(rows)
    for k, t in asked:
        here, cutoff = np.array([k], dtype=np.int64), np.array([t], dtype=np.int64)
        moment = whole.at(here, cutoff)
        counted = moment.rows_of(op, 0).tolist()
        known = counting(rows, k, t)
        if op.function is None or op.function == SINCE_LAST:
            assert len(counted) == bool(known)
        elif op.function == LAG:
            assert counted == sorted(sorted(known, key=lambda n: (rows[n][1], max(rows[n][1:3]), n))[-op.n :])
        else:
            assert counted == [n for n in known if rows[n][1] > t - op.window]
        latest = moment.latest_row(0).tolist()
        alone = timeline([rows[n] for n in sorted({*counted, *latest})]).at(here, cutoff).compute([op])[0]
        expected = moment.compute([op])[0]
        value = expected.values.tolist()[0]
        assert same(alone.values.tolist()[0], None if value != value else value)
        assert alone.status.tolist() == expected.status.tolist()


@settings(max_examples=EXAMPLES)
@given(histories, operators, queries)
def test_one_entity_alone_answers_as_among_many(rows: list[Row], op: Operator, asked: list[tuple[int, int]]) -> None:
    together = timeline(rows)
    for k, t in asked:
        mine = {row[5] for row in rows if row[0] == k}
        alone = timeline([(int(row[0] != k), *row[1:]) for row in rows if row[5] in mine])
        cutoff = np.array([t], dtype=np.int64)
        many = together.at(np.array([k], dtype=np.int64), cutoff).compute([op])[0]
        one = alone.at(np.zeros(1, dtype=np.int64), cutoff).compute([op])[0]
        expected = many.values.tolist()[0]
        assert same(one.values.tolist()[0], None if expected != expected else expected)
        assert one.status.tolist() == many.status.tolist()


@settings(max_examples=EXAMPLES)
@given(histories, st.lists(operators, min_size=1, max_size=4), queries)
def test_features_stay_the_same_within_their_span(
    rows: list[Row], ops: list[Operator], asked: list[tuple[int, int]]
) -> None:
    whole = timeline(rows)
    steady = [op for op in ops if op.function != SINCE_LAST]
    here, cutoff = (np.array(part, dtype=np.int64) for part in zip(*asked, strict=True))
    moment = whole.at(here, cutoff)
    since, until = moment.spans(ops)
    assert ((since <= cutoff) & (cutoff < until)).all()
    features, last = moment.compute(steady), moment.last_events()
    for query, (start, end) in enumerate(zip(since.tolist(), until.tolist(), strict=True)):
        times = np.arange(max(start, -10), min(end, 90))
        then = whole.at(np.full(len(times), here[query]), times)
        assert set(then.last_events()) == {last[query]}
        for before, after in zip(features, then.compute(steady), strict=True):
            assert set(map(repr, after.values.tolist())) == {repr(before.values.tolist()[query])}
            assert set(after.status.tolist()) == {before.status.tolist()[query]}


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
def test_prefixes_over_a_long_history_keep_their_digits(offset: float) -> None:
    rng = np.random.default_rng(7)
    n, day = 20_000, 100
    values = offset + rng.normal(size=n)
    event = np.sort(rng.integers(0, 1_000_000, n))
    rows = Rows(np.zeros(n, dtype=np.int64), event, event + rng.integers(0, 2 * day, n), {"x": values})
    ops = [
        Operator("m", "x", FN.AGGREGATE_FUNCTION_MEAN, 500),
        Operator("s", "x", FN.AGGREGATE_FUNCTION_STD, 500),
    ]
    cutoff = np.array([999_000])
    got = [float(f.values[0]) for f in Timeline(rows).at(np.zeros(1, dtype=np.int64), cutoff).compute(ops)]
    window = values[(rows.available <= cutoff) & (rows.event > cutoff - 500)].tolist()
    assert got[0] == pytest.approx(math.fsum(window) / len(window), rel=1e-12)
    assert got[1] == pytest.approx(statistics.stdev(window), rel=1e-9)


def test_a_row_too_late_for_its_window_never_counts() -> None:
    late = timeline([(0, 10, 20, 5.0, None, 0)])
    op = Operator("n", "", FN.AGGREGATE_FUNCTION_COUNT, window=10)
    cutoffs = np.arange(0, 40)
    assert late.at(np.zeros(40, dtype=np.int64), cutoffs).compute([op])[0].values.sum() == 0


def test_status_says_why_a_value_is_missing() -> None:
    known = timeline([(0, 10, 10, math.nan, "a", 0), (1, 10, 10, 1.0, "b", 1)])
    at = known.at(np.array([0, 1, 1, 2, -1]), np.array([11, 11, 40, 11, 11]))
    latest = at.compute([Operator("f", "x", None, max_age=20)])[0]
    status = FieldStatus
    assert latest.status.tolist() == [
        status.FIELD_STATUS_NULL,
        status.FIELD_STATUS_PRESENT,
        status.FIELD_STATUS_TOO_OLD,
        status.FIELD_STATUS_NOT_FOUND,
        status.FIELD_STATUS_NOT_FOUND,
    ]


def test_infinite_values_count_as_null() -> None:
    rows = timeline([(0, 1, 1, math.inf, None, 0), (0, 2, 2, 3.0, None, 1)])
    ops = [Operator("s", "x", FN.AGGREGATE_FUNCTION_SUM, window=10)]
    assert rows.at(np.zeros(1, dtype=np.int64), np.array([5])).compute(ops)[0].values.tolist() == [3.0]


def test_operator_reads_durations_from_the_declaration() -> None:
    feature = views.Feature(name="f", latest=views.Latest(column="x"))
    assert operator(feature).max_age is None
    feature.latest.max_age.FromMicroseconds(7)
    assert operator(feature).max_age == 7
