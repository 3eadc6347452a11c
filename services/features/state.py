"""What an accepted batch changes in online state, whatever the store: pure but for reading artifacts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from chassis.artifacts import ArtifactStore
from lineal.api.features.v1.events_pb2 import FeatureViewRegistered
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features import chunks
from services.features.chunks import Chunk
from services.features.packing import Layout, Packed, layout_of, pack
from tabular import keys
from tabular.parquet import read_parquet
from tabular.schema import arrow_schema


@dataclass(frozen=True)
class View:
    """A version of a view, as far as its state goes."""

    version: str
    entity_keys: tuple[str, ...]
    layout: Layout


@dataclass(frozen=True)
class Changed:
    """What became of one entity: chunks to write by number, whether the first of them was there, chunks to forget."""

    entity: str
    written: list[tuple[int, Packed]]
    first_is_old: bool
    forgotten: list[int]


def view_of(registered: FeatureViewRegistered, dataset: Dataset) -> View:
    """Return what a view's registration says of its state."""
    view = registered.feature_view
    return View(registered.version, tuple(view.entity_keys), layout_of(view, dataset))


def rows_of_batches(
    artifacts: ArtifactStore, dataset: Dataset, views: Sequence[View], digests: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield the accepted rows of batches, with the columns that the views need."""
    needed = {name for view in views for name in (*view.entity_keys, *view.layout.sources)}
    needed |= {name for name in (dataset.event_time, dataset.available_time) if name}
    wanted = pa.schema([field for field in arrow_schema(dataset) if field.name in needed])
    for digest in digests:
        yield read_parquet(artifacts.path(digest), wanted)


def changes(
    view: View, dataset: Dataset, table: pa.Table, load: Callable[[list[str]], dict[str, list[Chunk]]]
) -> list[Changed]:
    """Return what rows change; `load` gives the chunks of entities in order, with bytes where there is room."""
    places: dict[str, list[int]] = {}
    for row, entity in enumerate(keys.encode([table[name] for name in view.entity_keys])):
        if entity is not None:
            places.setdefault(entity, []).append(row)
    records, lines = pack(view.layout, dataset, table)
    there = load(list(places))
    found = []
    for entity, rows in places.items():
        old = there.get(entity, [])
        last = old[-1] if old else None
        written = chunks.grown(last, records[np.array(rows)], [lines[row] for row in rows] if lines else [])
        forgotten: list[int] = []
        if last is not None and written[-1][0] != last.number:
            after = {chunk.number: chunk for chunk in old}
            after |= {n: Chunk(n, packed.rows, packed.max_event, packed.max_available) for n, packed in written}
            forgotten = chunks.forgettable(view.layout, list(after.values()))
        found.append(Changed(entity, written, last is not None and written[0][0] == last.number, forgotten))
    return found
