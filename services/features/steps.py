"""The steps of building a training set: what Dask's workers run, each alone and each repeatable.

    partition  rows of some files, by bucket of keys     (only for what is too large for one task)
    corrected  rows of one bucket of row keys that are superseded, and when
    spine      keys, cut-offs and labels of one bucket, in order
    features   one view's features of one bucket of keys, by slice of time
    finish     the Parquet files of one slice, in their final order

A step reads artifacts and results of earlier steps by digest, and returns plain JSON values, so that a result can be
written down and a build can go on where it was left. How rows are cut depends on the numbers of rows alone, never on
the cluster: the same inputs give the same bytes on any number of workers.
"""

import functools
import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chassis.artifacts import ArtifactStore, artifact_store
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.features.v1.feature_set_pb2 import ColumnSource
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features import assembly
from services.features.assembly import CUTOFF, LABEL, LABEL_TIME, SUPERSEDED, Files, Range, ViewRows
from services.features.buckets import buckets_of, cut
from services.features.scratch import Scratch
from tabular import keys
from tabular.definitions import spine_keys
from tabular.keys import Ints
from tabular.parquet import to_parquet

_DAY = 86_400_000_000
_ROWS_PER_FILE = 1_000_000
# Whose features are computed at once.
_ROWS_TOGETHER = 250_000
# Part of a build's name: results of steps that worked differently are not taken over.
_STEPS = 4
POSITION = "__position"
_BUCKET = "__bucket_{}"


@dataclass(frozen=True)
class Source:
    """One snapshot: its declaration as JSON, and its files with their rows."""

    declaration: dict[str, Any]
    files: list[tuple[str, int]]

    @property
    def rows(self) -> int:
        """Count the rows."""
        return sum(rows for _, rows in self.files)


@dataclass(frozen=True)
class Plan:
    """What to build; messages are bytes, so that any worker can take them."""

    feature_set: bytes
    views: dict[str, bytes]
    sources: dict[str, Source]
    span: Range


def name_of(plan: Plan) -> str:
    """Return the name of a build, the same for the same inputs."""
    declared = [plan.feature_set.hex(), {name: view.hex() for name, view in plan.views.items()}]
    sources = {name: [source.declaration, source.files] for name, source in plan.sources.items()}
    span = [plan.span.start, plan.span.end, plan.span.label_known, plan.span.share, plan.span.labelled]
    return hashlib.sha256(json.dumps([_STEPS, declared, sources, span], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Built:
    """What was built: files with their rows, and what the manifest says of the label."""

    files: list[tuple[str, int]]
    label_mean: float


@dataclass(frozen=True)
class Place:
    """Where workers find artifacts, where they put results of steps, and where copies of remote ones go."""

    artifacts: str
    scratch: str
    cache: str


@dataclass(frozen=True)
class Held:
    """Where rows of a dataset lie: in files of a snapshot, or, once cut into buckets, in results of `partition`.

    `corrected` are the results of `corrected` that have rows; `first` is the number of the files' first row.
    """

    files: Files
    parts: list[str]
    corrected: tuple[str, ...] = ()
    first: int = 0


@dataclass(frozen=True)
class Cut:
    """The rows that enter: the results of `spine`, and of each slice of time the range of each as (first row, rows)."""

    spines: list[str]
    slices: list[list[tuple[int, int]]]


def partition(place: Place, held: Held, names: Sequence[str], buckets: int, numbered: bool = False) -> str:
    """Cut rows of files into buckets of keys, one table each; with the rows' numbers where wanted."""
    table = _rows(place, held, 0)
    if numbered:
        table = _numbered(table, held.first)
    bucket = buckets_of([table[name] for name in names], buckets)
    return _scratch(place).write(cut(table, bucket, buckets))


def corrected(place: Place, plan: Plan, name: str, held: Held, bucket: int) -> tuple[str, int]:
    """Find the rows of one bucket of row keys that another version takes the place of; return how many with the result.

    None is the precondition of running sums: without corrections a row leaves a window by its event time alone.
    """
    table = _rows(place, held, bucket)
    table = assembly.with_superseded(table if held.parts else _numbered(table, 0), dataset(plan, name))
    if SUPERSEDED not in table.column_names:
        return "", 0
    table = table.select([POSITION, SUPERSEDED]).filter(pc.less(table[SUPERSEDED], keys.NEVER))
    return _scratch(place).write([table]), table.num_rows


def spine(
    place: Place, plan: Plan, left: Held, right: Held, bucket: int, of_view: Sequence[int]
) -> tuple[str, list[tuple[int, int]]]:
    """Make the rows that enter, of one bucket; return with the result how many there are of each day, in order.

    Where the nth view's rows are cut into several buckets, `of_view`, each row has its own's number in a column.
    """
    registered = FeatureSetRegistered.FromString(plan.feature_set)
    feature_set = registered.feature_set
    of_spine = dataset(plan, feature_set.spine.dataset)
    of_label = dataset(plan, feature_set.label.dataset) if plan.span.labelled else of_spine
    rows = _rows(place, left, bucket)
    # Labels often are columns of the rows themselves.
    labels = rows if right == left else _rows(place, right, bucket)
    table = assembly.spine_of(feature_set, of_spine, of_label, plan.span, rows, labels)
    kept = {*columns_kept(registered, plan), CUTOFF, LABEL, LABEL_TIME}
    table = table.select([name for name in table.column_names if name in kept])
    # Told here once: each bucket of a view looks through all rows.
    for n, (wanted, buckets) in enumerate(zip(feature_set.view_features, of_view, strict=True)):
        if buckets > 1:
            names = spine_keys(wanted, FeatureView.FromString(plan.views[wanted.view]))
            numbers = buckets_of([table[name] for name in names], buckets)
            table = table.append_column(_BUCKET.format(n), pa.array(numbers.astype(np.uint16)))
    days = [(0, table.num_rows)]
    if of_spine.event_time:
        day, rows = np.unique(table[CUTOFF].cast(pa.int64()).to_numpy() // _DAY, return_counts=True)
        days = list(zip(day.tolist(), rows.tolist(), strict=True))
    return _scratch(place).write([table]), days


def columns_kept(registered: FeatureSetRegistered, plan: Plan) -> list[str]:
    """Return the columns of the spine's dataset that training rows, transforms and the keys of views are made of."""
    feature_set = registered.feature_set
    columns = [*dataset(plan, feature_set.spine.dataset).row_key, *registered.entity_columns]
    columns += [request.column for request in feature_set.request_features]
    columns += [
        source.name
        for column in registered.columns
        for source in column.inputs
        if source.source == ColumnSource.COLUMN_SOURCE_REQUEST
    ]
    for used in feature_set.view_features:
        columns += spine_keys(used, FeatureView.FromString(plan.views[used.view]))
    return list(dict.fromkeys(columns))


def slices(days: Sequence[Sequence[tuple[int, int]]], most: int) -> list[list[tuple[int, int]]]:
    """Cut spine buckets, in whole days, into slices of `most` rows or of one day; return the ranges of each bucket."""
    rows: Counter[int] = Counter()
    for bucket in days:
        rows.update(dict(bucket))
    last_days: list[int] = []
    held = 0
    for day, count in sorted(rows.items()):
        if not last_days or held + count > most:
            last_days.append(day)
            held = 0
        last_days[-1] = day
        held += count
    found: list[list[tuple[int, int]]] = [[] for _ in last_days or [0]]
    for bucket in days:
        ends = list(accumulate((count for _, count in bucket), initial=0))
        first = 0
        for n, last in enumerate(last_days):
            end = ends[bisect_right(bucket, last, key=itemgetter(0))]
            found[n].append((first, end - first))
            first = end
        if not last_days:
            found[0].append((0, 0))
    return found


def features(place: Place, plan: Plan, n: int, held: Held, cut: Cut, bucket: int, buckets: int) -> str:
    """Compute the nth view's features for one bucket of keys: a table per slice, with the rows' places in it.

    A place is that among the slice's rows of all spine buckets, one bucket's after the other's.
    """
    feature_set = FeatureSetRegistered.FromString(plan.feature_set).feature_set
    wanted = feature_set.view_features[n]
    view = FeatureView.FromString(plan.views[wanted.view])
    of_view = dataset(plan, view.dataset)
    table = _rows(place, held, bucket, assembly.columns_loaded(wanted, view, of_view))
    rows = ViewRows(feature_set, n, view, of_view, table)

    asked = [_asked(place, name, n, spine_keys(wanted, view), bucket, buckets) for name in cut.spines]
    return _scratch(place).write(_by_slice(rows, cut, asked))


def _asked(place: Place, name: str, n: int, columns: Sequence[str], bucket: int, buckets: int) -> tuple[pa.Table, Ints]:
    """Return the rows of a spine bucket that ask one bucket of the nth view's keys, with their numbers."""
    if buckets == 1:
        table = _scratch(place).read(name, 0, [*columns, CUTOFF])
        return table, np.arange(table.num_rows)
    table = _scratch(place).read(name, 0, [*columns, CUTOFF, _BUCKET.format(n)])
    numbers = np.flatnonzero(table[_BUCKET.format(n)].to_numpy() == bucket)
    return table.take(pa.array(numbers)), numbers


def _by_slice(rows: ViewRows, cut: Cut, asked: Sequence[tuple[pa.Table, Ints]]) -> Iterator[pa.Table]:
    """Yield a table of features for each slice, of the rows that ask."""
    first, count = (np.array([[span[i] for span in spans] for spans in cut.slices], dtype=np.int64) for i in (0, 1))
    # From a row's number in its spine bucket to its place in the slice.
    shift = np.cumsum(count, axis=1) - count - first
    # Where each slice begins among the rows that ask, and where the last one ends.
    bounds = np.vstack([first, first[-1] + count[-1]])
    edges = np.array([np.searchsorted(numbers, bounds[:, i]) for i, (_, numbers) in enumerate(asked)])
    # Of an entity that most rows ask for, no more than a slice's are held at once; of others, several slices'.
    for start, end in _groups(np.diff(edges.sum(axis=0)).tolist(), _ROWS_TOGETHER):
        counts = np.diff(edges[:, start : end + 1])
        tables, places = [], []
        for i, (table, numbers) in enumerate(asked):
            span = slice(edges[i, start], edges[i, end])
            tables.append(table[span])
            places.append(numbers[span] + np.repeat(shift[start:end, i], counts[i]))
        found = rows.features(pa.concat_tables(tables))
        found = found.append_column(POSITION, pa.array(np.concatenate(places).astype(np.int32)))
        if len(asked) > 1:
            slice_of = np.concatenate([np.repeat(np.arange(end - start), each) for each in counts])
            found = found.take(pa.array(np.argsort(slice_of, kind="stable")))
        at = 0
        for size in counts.sum(axis=0).tolist():
            yield found.slice(at, size)
            at += size


def _groups(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of what follows each other, of no more than `most` together or of one alone."""
    start = held = 0
    for n, size in enumerate(sizes):
        if n > start and held + size > most:
            yield start, n
            start, held = n, 0
        held += size
    yield start, len(sizes)


def finish(
    place: Place, plan: Plan, number: int, cut: Cut, views: Sequence[Sequence[str]]
) -> tuple[list[tuple[str, int]], float]:
    """Write one slice as Parquet files; return them with their rows, and the sum of the labels."""
    registered = FeatureSetRegistered.FromString(plan.feature_set)
    row_key = dataset(plan, registered.feature_set.spine.dataset).row_key
    pieces = zip(cut.spines, cut.slices[number], strict=True)
    spine = pa.concat_tables([_scratch(place).read(name, 0).slice(*span) for name, span in pieces])
    told = [_BUCKET.format(n) for n in range(len(views))]
    spine = spine.select([name for name in spine.column_names if name not in told]).combine_chunks()
    order = assembly.final_order(spine, row_key) if len(cut.spines) > 1 else None
    parts = []
    for digests in views:
        table = pa.concat_tables([_scratch(place).read(digest, number) for digest in digests]).combine_chunks()
        rows = np.empty(table.num_rows, dtype=np.int64)
        rows[table[POSITION].to_numpy()] = np.arange(table.num_rows)
        table = table.drop_columns([POSITION])
        if len(digests) > 1 or order is not None:
            table = table.take(pa.array(rows) if order is None else pa.array(rows).take(order))
        parts.append(table)
    table = assembly.finished(
        spine if order is None else spine.take(order),
        row_key,
        registered.entity_columns,
        [(column.name, column.type) for column in registered.columns],
        parts,
        registered.feature_set.transforms,
    )
    store = _store(place.artifacts, place.cache)
    files = [table.slice(start, _ROWS_PER_FILE) for start in range(0, max(table.num_rows, 1), _ROWS_PER_FILE)]
    return [(store.put(to_parquet(file)), file.num_rows) for file in files], assembly.label_sum(table)


def dataset(plan: Plan, name: str) -> Dataset:
    """Return a dataset as its snapshot declares it."""
    return assembly.dataset_of(plan.sources[name].declaration)


def _rows(place: Place, held: Held, bucket: int, columns: Sequence[str] | None = None) -> pa.Table:
    if held.parts:
        # Mapped: a column that nobody looks at is not read.
        tables = [_scratch(place).read(digest, bucket) for digest in held.parts]
        return pa.concat_tables(tables)
    table = assembly.load(held.files if columns is None else replace(held.files, columns=list(columns)))
    if not held.corrected:
        return table
    found = pa.concat_tables([_scratch(place).read(digest, 0) for digest in held.corrected])
    superseded = np.full(table.num_rows, keys.NEVER, dtype=np.int64)
    numbers = found[POSITION].to_numpy() - held.first
    mine = (numbers >= 0) & (numbers < len(superseded))
    superseded[numbers[mine]] = found[SUPERSEDED].to_numpy()[mine]
    return table.append_column(SUPERSEDED, pa.array(superseded))


def _numbered(table: pa.Table, first: int) -> pa.Table:
    return table.append_column(POSITION, pa.array(np.arange(first, first + table.num_rows)))


@functools.cache
def _scratch(place: Place) -> Scratch:
    return Scratch(place.scratch, Path(place.cache))


@functools.cache
def _store(root: str, cache: str) -> ArtifactStore:
    # Kept by the process, since a store verifies a file once as long as it lives.
    return artifact_store(root, Path(cache))
