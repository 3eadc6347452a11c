"""Whether what was served is what accepted rows give: features computed anew with the code of training sets.

Online state is not looked at. Each value is as known at the log position that its lookup had applied: only batches
accepted until then count. Records of one position share a computation, and so do all those for which nothing that was
accepted later was available at the cut-off: such rows change nothing. What transforms of the feature set made is
computed from the inputs that a record has, so that a wrong lookup is told of its own column.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import AggregateFunction, FeatureView
from lineal.api.features.v1.features_service_pb2 import CheckParityResponse
from lineal.api.features.v1.parity_pb2 import FeatureValue, ParityDifference, ServedFeatures
from lineal.api.features.v1.transform_pb2 import Transform
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.explain import same
from services.features import assembly
from services.features.assembly import CUTOFF, Ints
from services.features.batches import Batch
from services.features.explaining import key_scalar
from services.features.versions import BATCH, placed, with_versions
from tabular import keys
from tabular.columns import TIMESTAMP
from tabular.definitions import prefix_of, spine_keys, wanted_features
from tabular.on_demand import from_records
from tabular.parquet import read_parquet
from tabular.schema import ARROW_TYPES
from tabular.transforms import apply, outputs, sources

MOST_SERVED = 1_000
# Rows of the entities asked for that are held at once, unless they are of one entity.
_MOST_ROWS = 2_000_000
_POSITION = "__position"
_EXACT = (AggregateFunction.AGGREGATE_FUNCTION_COUNT, AggregateFunction.AGGREGATE_FUNCTION_DISTINCT)

Values = dict[str, float | str | None]


class TooManyServed(InvalidArgument):
    """More predictions were given than are checked in one call."""


@dataclass(frozen=True)
class View:
    """The nth view of a feature set, with the batches of its dataset, oldest first."""

    feature_set: FeatureSet
    n: int
    view: FeatureView
    dataset: Dataset
    batches: Sequence[Batch]

    @property
    def keys(self) -> list[str]:
        """Columns of the spine that hold the view's entity keys."""
        return spine_keys(self.feature_set.view_features[self.n], self.view)

    @property
    def schema(self) -> pa.Schema:
        """Columns that are read of the dataset."""
        return assembly.schema_read(self.feature_set.view_features[self.n], self.view, self.dataset)


def asked_of(served: Sequence[ServedFeatures], spine: Dataset, entity_columns: Sequence[str]) -> pa.Table:
    """Return entity keys, cut-offs and log positions of what was served. Raises TooManyServed."""
    if len(served) > MOST_SERVED:
        what = FieldViolation("served", f"give at most {MOST_SERVED:,} predictions a call")
        raise TooManyServed(f"{len(served):,} predictions are too many for one call", [what])
    kinds = {field.name: ARROW_TYPES[field.type] for field in spine.fields}
    columns = {name: _keys([one.entities.get(name, "") for one in served], kinds[name]) for name in entity_columns}
    columns[CUTOFF] = pa.array([one.cutoff_micros for one in served], pa.int64()).cast(TIMESTAMP)
    columns[_POSITION] = pa.array([one.position for one in served], pa.int64())
    return pa.table(columns)


def computed(artifacts: ArtifactStore, view: View, asked: pa.Table) -> pa.Table:
    """Return a view's features for each row asked for. Blocking: reads the files of the batches."""
    (code,) = keys.codes([asked[name] for name in view.keys])
    entities = np.unique(code[code >= 0])
    rows = _rows(artifacts, view, asked, _MOST_ROWS if len(entities) > 1 else None)
    if rows is not None:
        return _as_known(view, asked, rows)
    first = code < entities[len(entities) // 2]
    order = np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)])
    halves = [computed(artifacts, view, asked.filter(pa.array(mine))) for mine in (first, ~first)]
    return pa.concat_tables(halves).take(np.argsort(order))


def compared(
    served: Sequence[ServedFeatures],
    registered: FeatureSetRegistered,
    views: Mapping[str, FeatureView],
    tables: Sequence[pa.Table],
) -> CheckParityResponse:
    """Compare what was served with the tables of views and what transforms make.

    Counts, categories, nulls and columns of transforms must be equal, the rest to 1e-9.
    """
    looked_up = {name: table[name].to_pylist() for table in tables for name in table.column_names}
    made = _made(registered, served)
    exact = {*_counts(registered.feature_set, views), *_outputs(registered.feature_set)}
    response = CheckParityResponse()
    for row, one in enumerate(served):
        values: Values = {name: column[row] for name, column in looked_up.items()} | made[row]
        for value in one.values:
            if value.column not in values:
                continue
            response.values += 1
            anew, was = values[value.column], _plain(value)
            fits = same(was, anew)
            if value.column in exact and fits and isinstance(was, float) and was == was:
                fits = was == anew
            if not fits:
                response.differences.append(
                    ParityDifference(
                        prediction_id=one.prediction_id,
                        position=one.position,
                        served=value,
                        computed=_value(value.column, anew),
                    )
                )
    return response


def _made(registered: FeatureSetRegistered, served: Sequence[ServedFeatures]) -> list[Values]:
    """Return the columns that transforms make of the inputs recorded; records that have the same ones go together."""
    types = {each.name: each.type for column in registered.columns for each in (column, *column.inputs)}
    held = [{value.column: value for value in one.inputs if value.column in types} for one in served]
    alike: dict[tuple[str, ...], list[int]] = {}
    for row, inputs in enumerate(held):
        alike.setdefault(tuple(sorted(inputs)), []).append(row)
    found: list[Values] = [{} for _ in served]
    for names, rows in alike.items():
        taken = {name: from_records([held[row][name] for row in rows], types[name]) for name in names}
        for column, values in apply(_computable(registered.feature_set.transforms, names), taken).items():
            for row, value in zip(rows, values.tolist(), strict=True):
                found[row][column] = None if value != value else value
    return found


def _computable(transforms: Sequence[Transform], names: Sequence[str]) -> list[Transform]:
    """Return the transforms that can be computed of columns; one that made such a column was not computed for it."""
    found, known = [], set(names)
    for transform in transforms:
        if known.issuperset(sources(transform)) and known.isdisjoint(outputs(transform)):
            found.append(transform)
            known.update(outputs(transform))
    return found


def _outputs(feature_set: FeatureSet) -> Iterator[str]:
    for transform in feature_set.transforms:
        yield from outputs(transform)


def _rows(artifacts: ArtifactStore, view: View, asked: pa.Table, most: int | None) -> pa.Table | None:
    """Return the rows of the entities asked for and their other versions, in log order, with their batches.

    None when there are more than `most`.
    """
    latest = max(asked[CUTOFF].cast(pa.int64()).to_pylist(), default=0)
    wanted = [asked[name] for name in view.keys]
    schema, held = view.schema, 0
    tables = [placed(schema)]
    for number, batch in enumerate(view.batches):
        if batch.min_event is not None and batch.min_event > latest:
            continue
        table = read_parquet(artifacts.path(batch.digest), schema)
        query, code = keys.codes(wanted, [table[name] for name in view.view.entity_keys])
        found = np.flatnonzero((code >= 0) & np.isin(code, query))
        held += len(found)
        if most is not None and held > most:
            return None
        tables.append(placed(schema, number, table, found))
    return with_versions(artifacts, view.dataset, schema, view.batches, pa.concat_tables(tables))


def _as_known(view: View, asked: pa.Table, rows: pa.Table) -> pa.Table:
    """Compute features group by group, each from the batches that it may know."""
    number = rows[BATCH].to_numpy()
    corrected = assembly.SUPERSEDED in assembly.with_superseded(rows, view.dataset).column_names
    query, code = keys.codes([asked[name] for name in view.keys], [rows[name] for name in view.view.entity_keys])
    parts, order = [], []
    # A correction may change an entity that has no row of its batch: each position is then a group of its own.
    groups = _together(_accepted(view, asked)) if corrected else _groups(view, asked, query, code, rows, number)
    for batches, mine in groups:
        held = assembly.with_superseded(rows.filter(pa.array(number < batches)), view.dataset)
        held = held.filter(pa.array(np.isin(code[number < batches], query[mine])))
        known = assembly.ViewRows(view.feature_set, view.n, view.view, view.dataset, held)
        parts.append(known.features(asked.take(mine)))
        order.append(mine)
    return pa.concat_tables(parts).take(np.argsort(np.concatenate(order)))


def _groups(
    view: View, asked: pa.Table, query: Ints, code: Ints, rows: pa.Table, number: Ints
) -> Iterator[tuple[int, Ints]]:
    """Yield how many of the batches count, and for which of the rows asked for."""
    available = assembly.times(rows, view.dataset)[1]
    count = len(view.batches)
    known = _accepted(view, asked)
    order = np.lexsort((number, code))
    place = code[order] * (count + 1) + number[order]
    # The earliest available time of a row and of those of its entity that were accepted after it.
    earliest = pd.Series(available[order][::-1]).groupby(code[order][::-1]).cummin().to_numpy()[::-1]
    later = np.searchsorted(place, query * (count + 1) + known)
    there = later < np.searchsorted(place, (query + 1) * (count + 1))
    changed = np.zeros(len(query), dtype=np.bool_)
    cutoff = asked[CUTOFF].cast(pa.int64()).to_numpy()
    changed[there] = earliest[later[there]] <= cutoff[there]
    batches: npt.NDArray[np.int64] = np.where(changed, known, count)
    yield from _together(batches)


def _accepted(view: View, asked: pa.Table) -> Ints:
    accepted = np.array([batch.position for batch in view.batches], dtype=np.int64)
    known: Ints = np.searchsorted(accepted, asked[_POSITION].to_numpy(), side="right")
    return known


def _together(batches: Ints) -> Iterator[tuple[int, Ints]]:
    for each in np.unique(batches):
        yield int(each), np.flatnonzero(batches == each)


def _keys(texts: Sequence[str], kind: pa.DataType) -> pa.Array:
    values = []
    for text in texts:
        try:
            values.append(key_scalar(text, kind).as_py() if text else None)
        except (pa.ArrowInvalid, ValueError):
            # A null integer is recorded as `nan`; and a text that nobody can have looked up must not end the check.
            values.append(None)
    return pa.array(values, kind)


def _counts(feature_set: FeatureSet, views: Mapping[str, FeatureView]) -> Iterator[str]:
    for wanted in feature_set.view_features:
        for feature in wanted_features(wanted, views[wanted.view]):
            if feature.WhichOneof("kind") == "aggregate" and feature.aggregate.function in _EXACT:
                yield prefix_of(wanted) + feature.name


def _plain(value: FeatureValue) -> float | str | None:
    kind = value.WhichOneof("value")
    return None if kind is None else value.number if kind == "number" else value.text


def _value(column: str, plain: float | str | None) -> FeatureValue:
    if plain is None:
        return FeatureValue(column=column)
    return (
        FeatureValue(column=column, text=plain) if isinstance(plain, str) else FeatureValue(column=column, number=plain)
    )
