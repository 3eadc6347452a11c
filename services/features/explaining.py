"""Which accepted rows make a feature: found in the batches' files, chosen by the operators that compute it."""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument, RuleViolated
from lineal.api.features.v1.feature_set_pb2 import ViewFeatures
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.features.v1.features_service_pb2 import ContributingRow, ExplainFeaturesResponse, FieldStatus
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features.assembly import SUPERSEDED, columns_used, rows_of, schema_read, times, with_superseded
from services.features.batches import Batch
from services.features.versions import BATCH, ROW, placed, with_versions
from tabular import columns as tabular_columns
from tabular.definitions import prefix_of, spine_keys, wanted_features
from tabular.operators import FOREVER, Timeline, operator
from tabular.parquet import read_parquet
from tabular.schema import ARROW_TYPES, arrow_schema

MOST_ROWS = 10_000
_PAGE_ROWS = 200


class KeyInvalid(InvalidArgument):
    """The text of an entity key is not of its column's type."""


class TooManyRows(RuleViolated):
    """More rows count than are ever listed."""


@dataclass(frozen=True)
class Asked:
    """One view of a feature set, and the entity, cut-off and batches that are asked about."""

    wanted: ViewFeatures
    view: FeatureView
    dataset: Dataset
    entity: Mapping[str, str]
    cutoff: int
    batches: Sequence[Batch]


def explain(artifacts: ArtifactStore, asked: Asked) -> list[ExplainFeaturesResponse]:
    """Return a view's values and the rows that they are computed from. Blocking. Raises KeyInvalid, TooManyRows."""
    operators = [operator(feature) for feature in wanted_features(asked.wanted, asked.view)]
    table = _known(artifacts, asked)
    code = np.zeros(table.num_rows, dtype=np.int64)
    columns = columns_used(asked.wanted, asked.view)
    timeline = Timeline(rows_of(table, asked.dataset, code, columns, asked.view.transforms))
    moment = timeline.at(np.zeros(1, dtype=np.int64), np.array([asked.cutoff]))
    first = ExplainFeaturesResponse(
        view=asked.view.name,
        dataset=asked.dataset.name,
        key=dict(zip(asked.view.entity_keys, _texts(asked), strict=True)),
    )
    prefix = prefix_of(asked.wanted)
    for op, feature in zip(operators, moment.compute(operators), strict=True):
        first.columns.append(tabular_columns.from_numpy(prefix + op.name, feature.values))
        first.statuses.append(FieldStatus.ValueType(feature.status[0]))
    counted = np.unique(np.concatenate([moment.latest_row(0), *(moment.rows_of(op, 0) for op in operators)]))
    if len(counted) > MOST_ROWS:
        raise TooManyRows(
            f"{len(counted):,} rows of {asked.dataset.name} count in the features of view {asked.view.name!r}; at most "
            f"{MOST_ROWS:,} are listed; `lineal prove --no-rows` proves all but the rows"
        )
    return _pages(first, list(_listed(artifacts, asked, table.take(counted))))


def _known(artifacts: ArtifactStore, asked: Asked) -> pa.Table:
    """Return the rows of the entity that may count, in log order, with their places and when they were superseded."""
    schema, key = schema_read(asked.wanted, asked.view, asked.dataset), _key(asked)
    if key is None:
        return placed(schema)
    for every in (False, True):
        found = pa.concat_tables([placed(schema), *_rows(artifacts, asked, schema, key, every)])
        versions = with_versions(artifacts, asked.dataset, schema, asked.batches, found)
        table = with_superseded(versions, asked.dataset)
        table = table.filter(pc.fill_null(_same(table, key), False))
        if SUPERSEDED not in table.column_names or not pc.any(pc.less_equal(table[SUPERSEDED], asked.cutoff)).as_py():
            break
        # Where rows were corrected away, older ones may count in their stead.
    return table


def _rows(
    artifacts: ArtifactStore, asked: Asked, schema: pa.Schema, key: Mapping[str, pa.Scalar], every: bool
) -> Iterator[pa.Table]:
    """Yield rows of the entity by batch, the latest events first: all, or those that count if none is corrected."""
    operators = [operator(feature) for feature in wanted_features(asked.wanted, asked.view)]
    begin = asked.cutoff - max((op.window for op in operators), default=0)
    most = max((op.n for op in operators), default=1)
    # Event times of the latest known rows, as many as lags look back, the newest last.
    latest: list[int] = []
    for number, batch in sorted(enumerate(asked.batches), key=lambda each: _newest_first(each[1]), reverse=True):
        if every:
            pass
        elif not asked.dataset.event_time:
            # Of a static table only the entity's last row counts, and later batches were looked at before.
            if latest:
                return
        elif batch.min_event is not None and batch.max_event is not None:
            if batch.min_event > asked.cutoff:
                continue
            if len(latest) == most and batch.max_event <= begin and batch.max_event < latest[0]:
                # No window reaches this far back, nor do those that follow, and enough later rows are known.
                return
        table = read_parquet(artifacts.path(batch.digest), schema)
        rows = np.flatnonzero(pc.fill_null(_same(table, key), False))
        if len(rows):
            table = placed(schema, number, table, rows)
            event, available = times(table, asked.dataset)
            known = event[available <= asked.cutoff]
            latest = sorted([*latest, *known.tolist()])[-most:]
            yield table


def _same(table: pa.Table, key: Mapping[str, pa.Scalar]) -> pa.ChunkedArray:
    equal = [pc.equal(table[name], value) for name, value in key.items()]
    return functools.reduce(pc.and_, equal)


def _newest_first(batch: Batch) -> tuple[int, int]:
    return (FOREVER if batch.max_event is None else batch.max_event), batch.position


def _texts(asked: Asked) -> list[str]:
    return [asked.entity.get(column, "") for column in spine_keys(asked.wanted, asked.view)]


def _key(asked: Asked) -> dict[str, pa.Scalar] | None:
    """Return the values of the view's entity keys, None where one is null: nothing is known of such an entity."""
    kinds = {field.name: ARROW_TYPES[field.type] for field in asked.dataset.fields}
    found = {}
    for name, text in zip(asked.view.entity_keys, _texts(asked), strict=True):
        if not text:
            return None
        try:
            found[name] = key_scalar(text, kinds[name])
        except (pa.ArrowInvalid, ValueError) as error:
            what = FieldViolation(f"entities[{name}]", f"{text[:60]!r} is no {kinds[name]}")
            raise KeyInvalid(f"entity key {name!r} of view {asked.view.name!r}: {error}", [what]) from error
    return found


def key_scalar(text: str, kind: pa.DataType) -> pa.Scalar:
    """Return the value of an entity key from its text in a record of a prediction. Raises ArrowInvalid, ValueError."""
    if pa.types.is_timestamp(kind) and text.removeprefix("-").isdigit():
        # As serving has them: microseconds.
        return pa.scalar(text).cast(pa.int64()).cast(kind)
    if pa.types.is_timestamp(kind) and not text.endswith("Z") and "+" not in text:
        # As records of predictions have times: in UTC, without saying so.
        text += "Z"
    if pa.types.is_integer(kind):
        # A column of integers with nulls beside them comes as doubles.
        return pa.scalar(text.removesuffix(".0")).cast(kind)
    return pa.scalar(text).cast(kind)


def _listed(artifacts: ArtifactStore, asked: Asked, counted: pa.Table) -> Iterator[ContributingRow]:
    places = zip(counted[BATCH].to_pylist(), counted[ROW].to_pylist(), strict=True)
    for number, rows in itertools.groupby(places, key=lambda place: place[0]):
        batch = asked.batches[number]
        numbers = [row for _, row in rows]
        whole = read_parquet(artifacts.path(batch.digest), arrow_schema(asked.dataset))
        for row, values in zip(numbers, whole.take(numbers).to_pylist(), strict=True):
            yield ContributingRow(
                batch_id=batch.batch_id,
                batch_position=batch.position,
                row=row,
                row_json=json.dumps(values, ensure_ascii=False, default=str),
            )


def _pages(first: ExplainFeaturesResponse, rows: Sequence[ContributingRow]) -> list[ExplainFeaturesResponse]:
    first.rows.extend(rows[:_PAGE_ROWS])
    more = [
        ExplainFeaturesResponse(view=first.view, dataset=first.dataset, rows=rows[start : start + _PAGE_ROWS])
        for start in range(_PAGE_ROWS, len(rows), _PAGE_ROWS)
    ]
    return [first, *more]
