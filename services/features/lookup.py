"""Answer for entities from online state, with the operators that make training sets."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered
from lineal.api.features.v1.features_service_pb2 import GetOnlineFeaturesResponse
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.tabular.v1.column_pb2 import Column
from services.features.packing import Layout, unpack
from tabular import columns as tabular_columns
from tabular import keys
from tabular.definitions import prefix_of, spine_keys, wanted_features
from tabular.operators import Operator, Timeline, operator
from tabular.schema import ARROW_TYPES, did_you_mean

_CACHED = 20_000


class EntitiesInvalid(InvalidArgument):
    """The entity columns of a request are not those that the feature set needs."""


class Store(Protocol):
    """Where online state lies: the signature of an entity's state, and the state itself.

    While `moment` is the same no state changes; None where the store cannot say.
    """

    @property
    def moment(self) -> tuple[int, int] | None:
        """What is read is of this moment."""
        ...

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return, by view version and entity, a signature that changes whenever the state does."""
        ...

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        """Return the packed rows of entities by view version and entity."""
        ...


@dataclass(frozen=True)
class Lookup:
    """One view of a feature set, ready to answer."""

    version: str
    keys: list[str]
    columns: list[str]
    operators: list[Operator]
    layout: Layout


@dataclass(frozen=True)
class Prepared:
    """A feature set ready to answer: `types` are those of the entity columns."""

    version: str
    types: dict[str, pa.DataType]
    lookups: list[Lookup]


def prepare(
    registered: FeatureSetRegistered,
    views: Mapping[str, FeatureViewRegistered],
    layouts: Mapping[str, Layout],
    spine: Dataset,
) -> Prepared:
    """Compile a feature set."""
    lookups = []
    for wanted in registered.feature_set.view_features:
        view = views[wanted.view].feature_view
        operators = [operator(feature) for feature in wanted_features(wanted, view)]
        version = registered.view_versions[wanted.view]
        names = [prefix_of(wanted) + op.name for op in operators]
        lookups.append(Lookup(version, spine_keys(wanted, view), names, operators, layouts[version]))
    types = {field.name: ARROW_TYPES[field.type] for field in spine.fields if field.name in registered.entity_columns}
    return Prepared(registered.version, types, lookups)


class Cache:
    """Sorted rows of the entities asked for lately, each good as long as its signature is."""

    def __init__(self, entries: int = _CACHED) -> None:
        self._entries = entries
        self._timelines: OrderedDict[tuple[str, str], tuple[tuple[int, ...], tuple[bytes, bytes], Timeline]] = (
            OrderedDict()
        )
        # The signatures seen at the last moment: None for entities without state.
        self._moment: tuple[int, int] | None = None
        self._signatures: dict[tuple[str, str], tuple[int, ...] | None] = {}
        self._lock = threading.Lock()

    def signatures(self, store: Store, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return the signatures of those entities that have state, asking the store once in a moment."""
        with self._lock:
            if store.moment is None or store.moment != self._moment or len(self._signatures) > self._entries:
                self._moment, self._signatures = store.moment, {}
            seen = self._signatures
        unseen = [key for key in wanted if key not in seen]
        if unseen:
            views, entities = (sorted({key[n] for key in unseen}) for n in (0, 1))
            found = store.signatures(views, entities)
            seen.update((key, found.get(key)) for key in unseen)
        return {key: signature for key in wanted if (signature := seen[key]) is not None}

    def get(
        self,
        store: Store,
        layout: Layout,
        found: Mapping[tuple[str, str], tuple[int, ...]],
        wanted: Sequence[tuple[str, str]],
    ) -> dict[tuple[str, str], tuple[tuple[bytes, bytes], Timeline]]:
        """Return the packed and the sorted rows of those entities that have state."""
        there: dict[tuple[str, str], tuple[tuple[bytes, bytes], Timeline]] = {}
        stale = []
        with self._lock:
            for key in wanted:
                if key not in found:
                    continue
                entry = self._timelines.get(key)
                if entry is not None and entry[0] == found[key]:
                    self._timelines.move_to_end(key)
                    there[key] = entry[1:]
                else:
                    stale.append(key)
        if stale:
            for key, state in store.states(stale).items():
                there[key] = state, Timeline(unpack(layout, [state]))
                with self._lock:
                    self._timelines[key] = found[key], *there[key]
                    while len(self._timelines) > self._entries:
                        self._timelines.popitem(last=False)
        return there


def answer(
    prepared: Prepared, store: Store, cache: Cache, entities: Sequence[Column], cutoffs: Sequence[int], rows: int
) -> GetOnlineFeaturesResponse:
    """Return the view features of a request's rows, in the order of the feature set."""
    held = _entity_arrays(prepared, entities, rows)
    cutoff = np.full(rows, cutoffs[0]) if len(cutoffs) == 1 else np.array(cutoffs, dtype=np.int64)
    named = [keys.encode([held[name] for name in lookup.keys]) for lookup in prepared.lookups]
    asked = [
        [(lookup.version, text) for text in dict.fromkeys(texts) if text is not None]
        for lookup, texts in zip(prepared.lookups, named, strict=True)
    ]
    found = cache.signatures(store, [key for keys_of in asked for key in keys_of])
    response = GetOnlineFeaturesResponse(feature_set_version=prepared.version)
    for lookup, texts, wanted in zip(prepared.lookups, named, asked, strict=True):
        there = cache.get(store, lookup.layout, found, wanted)
        timeline, codes = _together(lookup, there, texts)
        computed = timeline.at(codes, cutoff).compute(lookup.operators)
        for name, feature in zip(lookup.columns, computed, strict=True):
            response.columns.append(tabular_columns.from_numpy(name, feature.values))
            response.statuses.append(feature.status.tobytes())
    return response


def _together(
    lookup: Lookup,
    there: Mapping[tuple[str, str], tuple[tuple[bytes, bytes], Timeline]],
    texts: Sequence[str | None],
) -> tuple[Timeline, npt.NDArray[np.int64]]:
    order = {key[1]: place for place, key in enumerate(there)}
    codes = np.array([order.get(text, -1) if text is not None else -1 for text in texts], dtype=np.int64)
    if len(there) == 1:
        return next(iter(there.values()))[1], codes
    return Timeline(unpack(lookup.layout, [state for state, _ in there.values()])), codes


def _entity_arrays(prepared: Prepared, entities: Sequence[Column], rows: int) -> dict[str, pa.Array]:
    given = {column.name: column for column in entities}
    violations = []
    arrays: dict[str, pa.Array] = {}
    for name, kind in prepared.types.items():
        if name not in given:
            text = f"send the entity column {name!r}{did_you_mean(name, given)}"
            violations.append(FieldViolation("entities", text))
            continue
        try:
            values = tabular_columns.to_arrow(given[name])
        except ValueError as error:
            violations.append(FieldViolation(f"entities.{name}", str(error)))
            continue
        if len(values) != rows:
            violations.append(FieldViolation(f"entities.{name}", f"has {len(values)} rows, others have {rows}"))
        elif values.null_count == rows:
            arrays[name] = pa.nulls(rows, kind)
        elif values.type != kind:
            violations.append(FieldViolation(f"entities.{name}", f"holds {values.type}, declared is {kind}; send that"))
        else:
            arrays[name] = values
    if violations:
        raise EntitiesInvalid("the entity columns do not fit the feature set", violations)
    return arrays
