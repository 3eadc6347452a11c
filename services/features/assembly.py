"""Assemble a training set from tables: pure functions, run by Dask's workers.

Point-in-time correct on both times: every feature sees only rows available at its row's cut-off, and a row enters only
when its label was available by the time given.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from google.protobuf.json_format import ParseDict

from chassis.artifacts import artifact_store
from lineal.api.features.v1.feature_set_pb2 import ColumnType, FeatureSet, Label, ViewFeatures
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.features.v1.transform_pb2 import Transform
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from tabular import keys
from tabular.columns import TIMESTAMP
from tabular.definitions import prefix_of, spine_keys, wanted_features
from tabular.operators import FOREVER, STATIC_TIME, Rows, Timeline, operator
from tabular.parquet import ipc_pieces, read_all, read_parquet
from tabular.schema import arrow_schema
from tabular.sorted_rows import Values
from tabular.transforms import extended, needed, outputs

Ints = npt.NDArray[np.int64]
CUTOFF = "cutoff"
LABEL = "label"
LABEL_TIME = "label_time"
# When another version of a row takes its place: only in tables of which some row was corrected.
SUPERSEDED = "__superseded"
_QUERIES_TOGETHER = 8192


@dataclass(frozen=True)
class Files:
    """Parquet files of one dataset, and where artifacts lie; plain values, so that any worker can take it."""

    artifacts: str
    cache: str
    declaration: dict[str, Any]
    digests: list[str]
    columns: list[str]


@dataclass(frozen=True)
class Range:
    """Which rows enter: times in microseconds, None is no limit; `share` of them, chosen by the hash of their key.

    Where they are not `labelled` all rows enter, without labels.
    """

    start: int | None
    end: int | None
    label_known: int | None
    share: float = 1.0
    labelled: bool = True


def dataset_of(declaration: dict[str, Any]) -> Dataset:
    """Return the declaration that a snapshot's manifest holds."""
    dataset: Dataset = ParseDict(declaration, Dataset())
    return dataset


def columns_read(wanted: ViewFeatures, view: FeatureView) -> list[str]:
    """Return the columns of the dataset that a view's features are computed from."""
    return needed(view.transforms, columns_used(wanted, view))[1]


def columns_loaded(wanted: ViewFeatures, view: FeatureView, dataset: Dataset) -> list[str]:
    """Return the columns of the dataset that `ViewRows` takes: keys, times, and what features are computed from."""
    times = (name for name in (dataset.event_time, dataset.available_time) if name)
    return list(dict.fromkeys([*view.entity_keys, *columns_read(wanted, view), *times]))


def schema_read(wanted: ViewFeatures, view: FeatureView, dataset: Dataset) -> pa.Schema:
    """Return the columns of the dataset that are read for a view's features: with its keys and times."""
    needed = {*dataset.row_key, *columns_loaded(wanted, view, dataset)}
    return pa.schema([field for field in arrow_schema(dataset) if field.name in needed])


def columns_used(wanted: ViewFeatures, view: FeatureView) -> list[str]:
    """Return the columns that a view's features take, of the dataset and of the view's transforms."""
    operators = (operator(feature) for feature in wanted_features(wanted, view))
    return list(dict.fromkeys(op.column for op in operators if op.column))


def label_sum(table: pa.Table) -> float:
    """Return the sum of the labels, rounded once; 0 without labels."""
    return math.fsum(table[LABEL].drop_null().to_numpy())


def load(files: Files) -> pa.Table:
    """Read columns of files, in log order."""
    dataset = dataset_of(files.declaration)
    store = artifact_store(files.artifacts, Path(files.cache))
    schema = arrow_schema(dataset)
    wanted = pa.schema([schema.field(name) for name in files.columns])
    return read_all([store.path(digest) for digest in files.digests], wanted)


def times(table: pa.Table, dataset: Dataset) -> tuple[Ints, Ints]:
    """Return the event and available times of rows in microseconds; those of a static dataset are known always."""
    if not dataset.event_time:
        static = np.full(table.num_rows, STATIC_TIME, dtype=np.int64)
        return static, static
    event = _micros(table[dataset.event_time])
    available = _micros(table[dataset.available_time]) if dataset.available_time else event
    return event, np.maximum(event, available)


def with_superseded(table: pa.Table, dataset: Dataset) -> pa.Table:
    """Say when rows were superseded, of a table in log order that has all versions of each; as it is if none was."""
    (code,) = keys.codes([table[name] for name in dataset.row_key])
    found = keys.superseded(code, times(table, dataset)[1])
    return table if found is None else table.append_column(SUPERSEDED, pa.array(found))


def rows_of(
    table: pa.Table, dataset: Dataset, code: Ints, columns: Sequence[str], transforms: Sequence[Transform] = ()
) -> Rows:
    """Return the rows of a table ready for operators; `code` is the entity of each."""
    table = extended(table, needed(transforms, columns)[0])
    event, available = times(table, dataset)
    superseded = table[SUPERSEDED].to_numpy() if SUPERSEDED in table.column_names else None
    return Rows(code, event, available, {name: values_of(table[name]) for name in columns}, superseded)


def values_of(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """Return a column as operators take it: texts as objects with None, the rest as doubles with NaN."""
    if pa.types.is_string(column.type):
        return np.asarray(column.to_pandas(), dtype=object)
    return np.asarray(column.cast(pa.float64()).to_pandas(), dtype=np.float64)


def spine_of(
    feature_set: FeatureSet, spine: Dataset, label: Dataset, span: Range, left: pa.Table, right: pa.Table
) -> pa.Table:
    """Return the rows that enter: keys, entity and request columns, cut-off, label and its time, in their final order.

    Of several rows with one row key the one available latest counts, then the one that came last. A row without a label
    does not enter: nothing is known of it, or not in time. Where labels are not asked for, they are null.
    """
    event, available = times(left, spine)
    (code,) = keys.codes([left[name] for name in spine.row_key])
    cutoff = event + feature_set.spine.cutoff_offset.ToMicroseconds() if spine.event_time else None
    rows = keys.latest_rows(code, available)
    if cutoff is not None:
        rows = rows[_inside(span, cutoff[rows])]
    if span.share < 1.0:
        lots = keys.lots([left[name].take(rows) for name in spine.row_key])
        rows = rows[lots < int(span.share * keys.LOTS)]
    if not span.labelled:
        table = left.take(rows).append_column(CUTOFF, _instants(cutoff, rows))
        table = table.append_column(LABEL, pa.nulls(len(rows), pa.float64()))
        return in_final_order(table.append_column(LABEL_TIME, _instants(None, rows)), spine.row_key)
    declared = feature_set.label
    if right is left and declared.key == spine.row_key:
        asked, held = code[rows], code
    else:
        asked, held = keys.codes(
            [left[name].take(rows) for name in declared.key], [right[name] for name in declared.key]
        )
    told = times(right, label)[1]
    labels = _label_values(declared, right[declared.column])
    row = _label_rows(span, right, told, asked, held)
    found = row >= 0
    found[found] = ~np.isnan(labels[row[found]])
    rows, row = rows[found], row[found]
    table = left if len(rows) == left.num_rows else left.take(rows)
    table = table.append_column(CUTOFF, _instants(cutoff, rows)).append_column(LABEL, pa.array(labels[row]))
    table = table.append_column(LABEL_TIME, _instants(told if label.event_time else None, row))
    return in_final_order(table, spine.row_key)


def _inside(span: Range, cutoff: Ints) -> npt.NDArray[np.bool_]:
    inside = np.ones(len(cutoff), dtype=np.bool_)
    if span.start is not None:
        inside &= cutoff >= span.start
    if span.end is not None:
        inside &= cutoff < span.end
    return inside


def _label_rows(span: Range, right: pa.Table, available: Ints, asked: Ints, held: Ints) -> Ints:
    """Return the row that has the label of each code asked for, -1 where none was known in time."""
    end = FOREVER if span.label_known is None else span.label_known
    counting = available <= end
    if SUPERSEDED in right.column_names:
        counting &= right[SUPERSEDED].to_numpy() > end
    held = np.where(counting, held, -1)
    latest = keys.latest_rows(held, available)
    # Codes are dense, so a table from code to row finds each label in one step.
    row_of = np.full(max(asked.max(initial=-1), held.max(initial=-1)) + 2, -1, dtype=np.int64)
    row_of[held[latest]] = latest
    found: Ints = row_of[asked]
    return found


def _instants(micros: Ints | None, rows: Ints) -> pa.Array:
    return pa.nulls(len(rows), TIMESTAMP) if micros is None else pa.array(micros[rows]).cast(TIMESTAMP)


def in_final_order(table: pa.Table, row_key: Sequence[str]) -> pa.Table:
    """Return rows by cut-off, then row key."""
    order = final_order(table, row_key)
    return (table if order is None else table.take(order)).combine_chunks()


def final_order(table: pa.Table, row_key: Sequence[str]) -> pa.Array | None:
    """Return the order by cut-off, then row key; None where rows came so, as from an orderly source."""
    names = [CUTOFF, *row_key]
    if _ascending([table[name] for name in names]):
        return None
    return pc.sort_indices(table, [(name, "ascending") for name in names])


def _ascending(columns: Sequence[pa.ChunkedArray]) -> bool:
    """Say whether rows are in the order of columns, the first most important; never where only some are null."""
    tied = np.ones(max(len(columns[0]) - 1, 0), dtype=np.bool_)
    for column in columns:
        if column.null_count == len(column):
            continue
        if column.null_count:
            return False
        whole = column.combine_chunks()
        before, after = whole[:-1], whole[1:]
        if (tied & pc.greater(before, after).to_numpy(zero_copy_only=False)).any():
            return False
        tied &= pc.equal(before, after).to_numpy(zero_copy_only=False)
    return True


def _label_values(label: Label, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    if label.WhichOneof("rule") == "equals":
        values = pc.equal(column.cast(pa.string()), label.equals)
    elif label.WhichOneof("rule") == "greater_than":
        values = pc.greater(column.cast(pa.float64()), label.greater_than)
    elif label.WhichOneof("rule") == "classes":
        values = pc.index_in(column.cast(pa.string()), pa.array(list(label.classes.values)))
    else:
        values = column
    return np.asarray(values.cast(pa.float64()).to_pandas(), dtype=np.float64)


class ViewRows:
    """Rows of a view's dataset, sorted once, that the view's features are computed from for any rows of the spine."""

    def __init__(self, feature_set: FeatureSet, n: int, view: FeatureView, dataset: Dataset, table: pa.Table) -> None:
        """Take the rows for the nth view of a feature set."""
        self._wanted = wanted = feature_set.view_features[n]
        self._keys = spine_keys(wanted, view)
        self._operators = [operator(feature) for feature in wanted_features(wanted, view)]
        (code,) = keys.codes([table[name] for name in view.entity_keys])
        # Entity by entity, each in the order it came: sorting and searching then go through memory in order.
        held = _by_code(code)
        held = held[code[held] >= 0]
        table, code = table.take(held), code[held]
        firsts = np.flatnonzero(np.append(True, code[1:] != code[:-1])) if len(code) else code
        self._entities = [table[name].take(firsts) for name in view.entity_keys]
        self._codes = code[firsts]
        self._timeline = Timeline(rows_of(table, dataset, code, columns_used(wanted, view), view.transforms))
        # Numbers of a few queries stay in the processor's cache; but some answers look over all rows each time.
        scans = self._timeline.superseded is not None or any(op.scans for op in self._operators)
        self._part = FOREVER if scans else _QUERIES_TOGETHER

    def features(self, asked: pa.Table) -> pa.Table:
        """Compute the features for rows of the spine, of which keys and cut-offs are read."""
        query, entity = keys.codes([asked[name] for name in self._keys], self._entities)
        code = np.full(max(query.max(initial=-1), entity.max(initial=-1)) + 2, -1, dtype=np.int64)
        code[entity] = self._codes
        # The last one stands for null, which a code of -1 finds.
        query = code[query]
        cutoff = np.full(len(query), FOREVER, dtype=np.int64)
        if asked[CUTOFF].null_count == 0:
            cutoff = _micros(asked[CUTOFF])
        order, found = _by_code(query), list[Values]()
        for start in range(0, max(len(order), 1), self._part):
            part = order[start : start + self._part]
            computed = self._timeline.at(query[part], cutoff[part]).compute(self._operators)
            found = found or [np.empty(len(order), dtype=feature.values.dtype) for feature in computed]
            for values, feature in zip(found, computed, strict=True):
                values[part] = feature.values
        return pa.table(
            {
                prefix_of(self._wanted) + op.name: (
                    pa.array(values, type=pa.string()) if values.dtype == object else pa.array(values, from_pandas=True)
                )
                for op, values in zip(self._operators, found, strict=True)
            }
        )


def finished(
    spine_table: pa.Table,
    row_key: Sequence[str],
    entities: Sequence[str],
    columns: Sequence[tuple[str, int]],
    parts: Sequence[pa.Table],
    transforms: Sequence[Transform] = (),
) -> pa.Table:
    """Put keys, cut-off, features and label side by side.

    `columns` are names and types of the features, `parts` the features of views, row by row those of the spine, and
    `transforms` those of the feature set, which take columns of both.
    """
    computed = {name: table[name] for table in parts for name in table.column_names}
    if transforms:
        brought = {name: spine_table[name] for name in spine_table.column_names}
        made = extended(pa.table(brought | computed), transforms)
        computed |= {name: made[name] for transform in transforms for name in outputs(transform)}
    arrays: dict[str, pa.ChunkedArray] = {}
    for name in dict.fromkeys([*row_key, *entities, CUTOFF]):
        arrays[name] = spine_table[name]
    for name, kind in columns:
        if name in computed:
            arrays[name] = computed[name]
        elif name not in arrays:
            numeric = kind == ColumnType.COLUMN_TYPE_NUMERIC
            arrays[name] = spine_table[name].cast(pa.float64()) if numeric else spine_table[name]
    arrays[LABEL] = spine_table[LABEL]
    arrays[LABEL_TIME] = spine_table[LABEL_TIME]
    return pa.table(arrays).combine_chunks()


def pieces(paths: Sequence[Path]) -> Iterator[bytes]:
    """Yield the rows of Parquet files of one schema as pieces of an Arrow IPC stream."""
    if not paths:
        return
    with pq.ParquetFile(paths[0]) as first:
        schema = first.schema_arrow
    yield from ipc_pieces(schema, (read_parquet(path, schema) for path in paths))


def _by_code(code: Ints) -> Ints:
    # numpy sorts 16-bit integers by radix, in one pass.
    small = code.max(initial=0) < np.iinfo(np.int16).max
    order: Ints = np.argsort(code.astype(np.int16) if small else code, kind="stable")
    return order


def _micros(column: pa.ChunkedArray | pa.Array) -> Ints:
    values: Ints = column.cast(pa.int64()).to_numpy()
    return values
