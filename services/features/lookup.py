"""Answer for entities from online state, with the operators that make training sets."""

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, cast

import numpy as np
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
from tabular.operators import SINCE_LAST, Operator, Timeline, elapsed, operator
from tabular.schema import ARROW_TYPES, did_you_mean

_CACHED = 20_000
# Rows that are recalled without a thread, in a few milliseconds.
_RECALLED_ROWS = 1_000
# The fields of a column whose values are keys as they are.
_FIELDS: dict[pa.DataType, Literal["strings", "int64s", "bools"]] = {
    pa.string(): "strings",
    pa.int64(): "int64s",
    pa.bool_(): "bools",
}
Key = tuple[str, str]  # of a view's version, and of an entity
Signatures = dict[Key, tuple[int, ...] | None]


class EntitiesInvalid(InvalidArgument):
    """The entity columns of a request are not those that the feature set needs."""


@dataclass(frozen=True)
class Standing:
    """What is read is good for `position` and, until this process applies more and `still` changes, for ever."""

    still: tuple[int, int]
    position: int


class Store(Protocol):
    """Where online state lies: the signature of an entity's state, and the state itself.

    While `moment` is the same no state changes; None where the store cannot say.
    """

    @property
    def moment(self) -> tuple[int, int] | None:
        """What is read is of this moment: a log position, and what else changes with the state."""
        ...

    @property
    def standing(self) -> Standing | None:
        """How long what is read is good, None where the store cannot say."""
        ...

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return, by view version and entity, a signature that changes whenever the state does."""
        ...

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        """Return the packed rows of entities by view version and entity."""
        ...


@dataclass(frozen=True, eq=False)
class Lookup:
    """One view of a feature set, ready to answer."""

    version: str
    keys: list[str]
    columns: list[str]
    operators: list[Operator]
    layout: Layout

    @cached_property
    def since_last(self) -> list[int]:
        """Return the places of the columns that change with every cut-off."""
        return [place for place, op in enumerate(self.operators) if op.function == SINCE_LAST]


@dataclass(frozen=True)
class Prepared:
    """A feature set ready to answer: `types` are those of the entity columns."""

    version: str
    types: dict[str, pa.DataType]
    lookups: list[Lookup]


@dataclass(slots=True)
class Held:
    """One entity's features, the same for cut-offs from `since` until before `until` while the signature is.

    All but the time since the last row, of which `last` is the event time. Without a signature there is no state.
    """

    signature: tuple[int, ...] | None
    since: int
    until: int
    last: int | None
    values: tuple[Any, ...]
    statuses: bytes
    # The answer to a request for this entity alone, once there was one: nine in ten parts of making it are saved.
    alone: bytes = b""


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
    """What was read and computed lately for the entities asked for, each good as long as its signature is."""

    def __init__(self, entries: int = _CACHED) -> None:
        self._entries = entries
        self._states: OrderedDict[Key, tuple[tuple[int, ...], tuple[bytes, bytes]]] = OrderedDict()
        self._held: dict[tuple[Lookup, str], Held] = {}
        # The signatures seen at the last moment: None for entities without state.
        self._moment: tuple[int, int] | None = None
        self._standing: Standing | None = None
        self._signatures: Signatures = {}
        self._lock = threading.Lock()

    def remembered(self, still: tuple[int, int] | None) -> tuple[Signatures, int] | None:
        """Return the signatures seen while the store has stood still, and the position they are of; else None."""
        with self._lock:
            if still is None or self._standing is None or self._standing.still != still:
                return None
            return self._signatures, self._standing.position

    def signatures(self, store: Store, wanted: Sequence[Key]) -> Signatures:
        """Return the signatures of entities, None without state, asking the store once in a moment."""
        with self._lock:
            seen = self._seen(store)
        unseen = [key for key in wanted if key not in seen]
        if unseen:
            views, entities = (sorted({key[n] for key in unseen}) for n in (0, 1))
            found = store.signatures(views, entities)
            seen.update((key, found.get(key)) for key in unseen)
        return {key: seen[key] for key in wanted}

    def held(
        self, lookup: Lookup, texts: Sequence[str], cutoffs: Sequence[int], signatures: Signatures
    ) -> list[Held | None]:
        """Return what is held of entities for each cut-off, None where it is not or no longer good."""
        found: list[Held | None] = []
        version, held = lookup.version, self._held
        for text, cutoff in zip(texts, cutoffs, strict=True):
            one = held.get((lookup, text))
            if one is not None and not one.since <= cutoff < one.until:
                one = None
            # A signature that was not asked for is no tuple and not None either.
            if one is not None and one.signature != signatures.get((version, text), ...):
                one = None
            found.append(one)
        return found

    def keep(self, lookup: Lookup, texts: Sequence[str], computed: Sequence[Held]) -> None:
        """Hold what was computed, and forget what was computed long ago."""
        with self._lock:
            for text, one in zip(texts, computed, strict=True):
                self._held.pop((lookup, text), None)
                self._held[lookup, text] = one
            while len(self._held) > self._entries:
                del self._held[next(iter(self._held))]

    def states(self, store: Store, signatures: Signatures, wanted: Sequence[Key]) -> dict[Key, tuple[bytes, bytes]]:
        """Return the packed rows of those entities that have state."""
        there: dict[Key, tuple[bytes, bytes]] = {}
        stale = []
        with self._lock:
            for key in wanted:
                if (signature := signatures[key]) is None:
                    continue
                entry = self._states.get(key)
                if entry is not None and entry[0] == signature:
                    self._states.move_to_end(key)
                    there[key] = entry[1]
                else:
                    stale.append((key, signature))
        if stale:
            read = store.states([key for key, _ in stale])
            there |= read
            with self._lock:
                self._states.update((key, (signature, read[key])) for key, signature in stale if key in read)
                while len(self._states) > self._entries:
                    self._states.popitem(last=False)
        return there

    def _seen(self, store: Store) -> Signatures:
        moment = store.moment
        if moment is None or (self._moment is not None and moment[0] < self._moment[0]):
            # Kept for nobody: the store cannot say when they change, or a later reader came first.
            return {}
        if moment != self._moment or len(self._signatures) > self._entries:
            self._moment, self._signatures = moment, {}
        self._standing = store.standing
        return self._signatures


def recall(
    prepared: Prepared,
    cache: Cache,
    still: tuple[int, int] | None,
    entities: Sequence[Column],
    cutoffs: Sequence[int],
    rows: int,
) -> GetOnlineFeaturesResponse | None:
    """Return the view features of a request's few rows where all are held and the store stands still, else None."""
    remembered = cache.remembered(still)
    if remembered is None or rows > _RECALLED_ROWS:
        return None
    signatures, position = remembered
    asked = cutoffs if len(cutoffs) == rows else list(cutoffs) * rows
    response = GetOnlineFeaturesResponse(feature_set_version=prepared.version, position=position)
    for lookup, texts in zip(prepared.lookups, _texts(prepared, entities, rows), strict=True):
        held = cache.held(lookup, texts, asked, signatures)
        if None in held:
            return None
        _add(response, lookup, cast(list[Held], held), asked)
    return response


def answer(
    prepared: Prepared, store: Store, cache: Cache, entities: Sequence[Column], cutoffs: Sequence[int], rows: int
) -> GetOnlineFeaturesResponse:
    """Return the view features of a request's rows, in the order of the feature set."""
    named = _texts(prepared, entities, rows)
    asked = cutoffs if len(cutoffs) == rows else list(cutoffs) * rows
    wanted = [(lookup.version, text) for lookup, texts in zip(prepared.lookups, named, strict=True) for text in texts]
    signatures = cache.signatures(store, list(dict.fromkeys(wanted)))
    response = GetOnlineFeaturesResponse(feature_set_version=prepared.version)
    for lookup, texts in zip(prepared.lookups, named, strict=True):
        held = cache.held(lookup, texts, asked, signatures)
        missing = [row for row, one in enumerate(held) if one is None]
        computed = _computed(lookup, store, cache, signatures, [(texts[row], asked[row]) for row in missing])
        for row, one in zip(missing, computed, strict=True):
            held[row] = one
        _add(response, lookup, cast(list[Held], held), asked)
    return response


def _computed(
    lookup: Lookup, store: Store, cache: Cache, signatures: Signatures, missing: Sequence[tuple[str, int]]
) -> list[Held]:
    if not missing:
        return []
    texts, cutoffs = zip(*missing, strict=True)
    there = cache.states(store, signatures, [(lookup.version, text) for text in dict.fromkeys(texts)])
    order = {text: place for place, (_, text) in enumerate(there)}
    codes = np.array([order.get(text, -1) for text in texts], dtype=np.int64)
    moment = Timeline(unpack(lookup.layout, list(there.values()))).at(codes, np.array(cutoffs, dtype=np.int64))
    features = moment.compute(lookup.operators)
    since, until = moment.spans(lookup.operators)
    computed = [
        Held(signatures[lookup.version, text], *rest)
        for text, *rest in zip(
            texts,
            since.tolist(),
            until.tolist(),
            moment.last_events(),
            zip(*(feature.values.tolist() for feature in features), strict=True),
            map(bytes, zip(*(feature.status.tolist() for feature in features), strict=True)),
            strict=True,
        )
    ]
    cache.keep(lookup, texts, computed)
    return computed


def _add(response: GetOnlineFeaturesResponse, lookup: Lookup, held: Sequence[Held], cutoffs: Sequence[int]) -> None:
    """Add a view's columns to an answer."""
    if len(held) != 1:
        _add_columns(response, lookup, held, cutoffs)
        return
    (one,), (cutoff,) = held, cutoffs
    if not one.alone:
        only = GetOnlineFeaturesResponse()
        _add_columns(only, lookup, held, cutoffs)
        one.alone = only.SerializeToString()
    first = len(response.columns)
    response.MergeFromString(one.alone)
    if one.last is not None:
        for place in lookup.since_last:
            response.columns[first + place].doubles.values[0] = elapsed(cutoff, one.last)


def _add_columns(
    response: GetOnlineFeaturesResponse, lookup: Lookup, held: Sequence[Held], cutoffs: Sequence[int]
) -> None:
    values: list[Sequence[Any]] = list(zip(*(one.values for one in held), strict=True))
    statuses = list(zip(*(one.statuses for one in held), strict=True))
    for place, (name, op) in enumerate(zip(lookup.columns, lookup.operators, strict=True)):
        column = values[place] if held else ()
        if op.picks and op.column in lookup.layout.texts:
            response.columns.append(tabular_columns.from_texts(name, column))
        else:
            if op.function == SINCE_LAST:
                column = [
                    math.nan if one.last is None else elapsed(cutoff, one.last)
                    for one, cutoff in zip(held, cutoffs, strict=True)
                ]
            response.columns.append(tabular_columns.from_doubles(name, column))
        response.statuses.append(bytes(statuses[place]) if held else b"")


def _texts(prepared: Prepared, entities: Sequence[Column], rows: int) -> list[list[str]]:
    """Return the entities of a request's rows for each view; the empty text where a key is null, which is nobody's."""
    values = _plain_values(prepared, entities, rows)
    if values is None:
        values = {name: keys.plain(array) for name, array in _entity_arrays(prepared, entities, rows).items()}
    named = [keys.encode_plain([values[name] for name in lookup.keys]) for lookup in prepared.lookups]
    return [[text or "" for text in texts] for texts in named]


def _plain_values(prepared: Prepared, entities: Sequence[Column], rows: int) -> dict[str, list[object]] | None:
    """Return the entity columns as they came where nothing is to say against them: no nulls, the types declared."""
    given = {column.name: column for column in entities}
    values: dict[str, list[object]] = {}
    for name, kind in prepared.types.items():
        column = given.get(name)
        field = _FIELDS.get(kind)
        if column is None or not field or column.null_rows or not column.HasField(field):
            return None
        values[name] = list(getattr(column, field).values)
        if len(values[name]) != rows:
            return None
    return values


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
