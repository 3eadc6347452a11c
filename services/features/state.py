"""What an accepted batch changes in online state, whatever the store: pure but for reading artifacts."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from chassis.artifacts import ArtifactStore
from lineal.api.features.v1.events_pb2 import FeatureViewRegistered
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features import chunks
from services.features.chunks import Chunk
from services.features.packing import AVAILABLE, SUPERSEDED, Layout, layout_of, pack
from tabular import keys
from tabular.keys import NEVER
from tabular.parquet import read_parquet
from tabular.schema import arrow_schema


@dataclass(frozen=True)
class View:
    """A version of a view, as far as its state goes."""

    version: str
    entity_keys: tuple[str, ...]
    layout: Layout


class Version(NamedTuple):
    """A version of a row: its entity (None where a key is null), its number there, and when it became available."""

    entity: str | None
    row: int
    available: int


def version_id(view: str, row_key: str) -> bytes:
    """Return what stores know a row by: rows whose keys follow each other lie together, so that few pages change."""
    return hashlib.blake2b(view.encode(), digest_size=8).digest() + row_key.encode()


def encoded(versions: Sequence[Version]) -> bytes:
    """Return versions as bytes: a JSON array of [entity, row, available]. Written for each row that is accepted."""
    texts = (
        f"[{'null' if entity is None else encode_basestring_ascii(entity)},{row},{available}]"
        for entity, row, available in versions
    )
    return f"[{','.join(texts)}]".encode()


def decoded(body: bytes) -> list[Version]:
    """Return versions of their bytes."""
    return [Version(*values) for values in json.loads(body)]


class Stored(Protocol):
    """What a store has of one view."""

    def tails(self, entities: Sequence[str]) -> dict[str, list[Chunk]]:
        """Return the chunks of entities, in order; with their bytes where there is room for more rows."""
        ...

    def whole(self, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Chunk]:
        """Return chunks with their bytes by entity and number; those that were forgotten are left out."""
        ...

    def versions(self, row_keys: Sequence[str]) -> dict[str, list[Version]]:
        """Return the versions of rows by row key, in log order."""
        ...


@dataclass(frozen=True)
class Changed:
    """What became of one entity: chunks to write in place of old ones, new chunks, and numbers of chunks to forget."""

    entity: str
    rewritten: list[Chunk]
    new: list[Chunk]
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
    needed |= {name for name in (*dataset.row_key, dataset.event_time, dataset.available_time) if name}
    wanted = pa.schema([field for field in arrow_schema(dataset) if field.name in needed])
    for digest in digests:
        yield read_parquet(artifacts.path(digest), wanted)


def row_keys_of(dataset: Dataset, table: pa.Table) -> list[str]:
    """Return the row keys of accepted rows, which have no nulls."""
    return [str(key) for key in keys.encode([table[name] for name in dataset.row_key])]


def changes(
    view: View, dataset: Dataset, table: pa.Table, row_keys: Sequence[str], stored: Stored
) -> tuple[list[Changed], dict[str, list[Version]]]:
    """Return what rows change: entities, and the versions of the rows by row key.

    A row whose key was there before takes the place of the version before it, which may be another entity's.
    """
    entities = keys.encode([table[name] for name in view.entity_keys])
    places: dict[str, list[int]] = {}
    for row, entity in enumerate(entities):
        if entity is not None:
            places.setdefault(entity, []).append(row)
    records, lines = pack(view.layout, dataset, table)
    there = stored.tails(list(places))
    first = {entity: chunks.next_row(there[entity][-1] if entity in there else None) for entity in places}
    numbers = {row: first[entity] + n for entity, rows in places.items() for n, row in enumerate(rows)}

    known = stored.versions(list(dict.fromkeys(row_keys)))
    versions = {key: list(known.get(key, ())) for key in row_keys}
    available = records[:, AVAILABLE].tolist()
    for row, (key, entity) in enumerate(zip(row_keys, entities, strict=True)):
        versions[key].append(Version(entity, numbers.get(row, 0), available[row]))
    # By entity, the numbers of rows that are superseded at another time than before.
    superseded: dict[str, dict[int, int]] = {}
    for key, found in versions.items():
        if len(found) == 1:
            continue
        before = _superseded(known.get(key, ()))
        for version, time in _superseded(found).items():
            if version.entity is not None and before.get(version, NEVER) != time:
                superseded.setdefault(version.entity, {})[version.row] = time

    for row, number in numbers.items() if superseded else ():
        records[row, SUPERSEDED] = superseded.get(str(entities[row]), {}).get(number, NEVER)
    corrected = _corrected(view, stored, there, first, superseded)
    changed = []
    for entity in dict.fromkeys([*places, *corrected]):
        old, again = there.get(entity, []), corrected.get(entity, {})
        grown: list[Chunk] = []
        if entity in places:
            rows = places[entity]
            last = again.get(old[-1].number, old[-1]) if old else None
            grown = chunks.grown(last, records[np.array(rows)], [lines[row] for row in rows] if lines else [])
        written = again | {chunk.number: chunk for chunk in grown}
        last_number = old[-1].number if old else max(again, default=0)
        forgotten: list[int] = []
        if old and max(written) > last_number:
            forgotten = chunks.forgettable(view.layout, list(({c.number: c for c in old} | written).values()))
        kept = [chunk for number, chunk in sorted(written.items()) if number not in forgotten]
        changed.append(
            Changed(
                entity,
                [chunk for chunk in kept if chunk.number <= last_number],
                [chunk for chunk in kept if chunk.number > last_number],
                forgotten,
            )
        )
    return changed, versions


def _superseded(versions: Sequence[Version]) -> dict[Version, int]:
    ranked = sorted(versions, key=lambda version: version.available)
    return {version: following.available for version, following in itertools.pairwise(ranked)}


def _corrected(
    view: View,
    stored: Stored,
    there: Mapping[str, list[Chunk]],
    first: Mapping[str, int],
    superseded: Mapping[str, Mapping[int, int]],
) -> dict[str, dict[int, Chunk]]:
    """Return the chunks with rows that were there before and are superseded now, by entity and number."""
    times: dict[tuple[str, int], dict[int, int]] = {}
    for entity, rows in superseded.items():
        for row, time in rows.items():
            if row < first.get(entity, NEVER):
                number, place = chunks.place_of(row)
                times.setdefault((entity, number), {})[place] = time
    # The chunk that rows are added to came with its bytes, and may have some from this event that no store has yet.
    held = {(entity, chunk.number): chunk for entity, found in there.items() for chunk in found if chunk.numbers}
    held |= stored.whole([key for key in times if key not in held])
    corrected: dict[str, dict[int, Chunk]] = {}
    for (entity, number), found in times.items():
        # Without bytes it was forgotten while it was read, by another replica.
        if (entity, number) in held and held[entity, number].numbers:
            chunk = chunks.superseded(held[entity, number], found, view.layout)
            corrected.setdefault(entity, {})[number] = chunk
    return corrected
