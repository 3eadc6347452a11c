"""Online state in Redis, for many replicas of features: the effect of an event and the cursor in one MULTI.

Whoever applies an event watches the cursor, so of several replicas one applies it and the others go on behind. Keys,
under `lineal:online:v2:`: `cursor`; `dataset:<name>` and `view:<version>` (messages); `views:<dataset>` (versions, a
set); `batches:<dataset>` (digests, a list); `state:<version>:<entity>`, a hash with `m` (what is known of the chunks
beside their rows), and for each chunk `n<number>` and `t<number>`; `rows:<version>`, a hash of each row's versions.
"""

import asyncio
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import redis
from redis.client import Pipeline

from chassis.artifacts import ArtifactStore
from chassis.context import time_left
from chassis.errors import Unavailable
from chassis.events import Event, EventLog
from chassis.projection import ProjectionBehind
from lineal.api.features.v1.events_pb2 import FeatureViewRegistered
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, DatasetRegistered
from services.features import chunks
from services.features.chunks import Chunk
from services.features.lookup import Store
from services.features.packing import Layout
from services.features.state import (
    Changed,
    Version,
    View,
    changes,
    decoded,
    encoded,
    row_keys_of,
    rows_of_batches,
    version_id,
    view_of,
)

T = TypeVar("T")
_TYPES = (DatasetRegistered, BatchAccepted, FeatureViewRegistered)
_CHUNK = struct.Struct("<qqqqqq")
_WAIT_SECONDS = 10.0


class RedisStateLost(Exception):
    """Redis knows less than it did: the process ends, and the next one builds the state from the log."""


class RedisOnlineStore:
    """Online state in Redis. `run` follows the log until cancelled; failures of Redis are raised."""

    def __init__(self, url: str, log: EventLog, artifacts: ArtifactStore, prefix: str = "lineal:online:v2:") -> None:
        self._redis = redis.Redis.from_url(url)
        self._log = log
        self._artifacts = artifacts
        self._prefix = prefix
        self._position = 0
        # The cursor as Redis had it last; the position goes on over events that change nothing here.
        self._applied = 0
        self._live = False
        self._changed = asyncio.Condition()

    @property
    def position(self) -> int:
        """The log position up to which events were applied."""
        return self._position

    async def run(self) -> None:
        """Apply events for ever."""
        self._position = self._applied = await asyncio.to_thread(self._cursor)
        async with aclosing(self._log.subscribe(self._position, _TYPES)) as deliveries:  # type: ignore[type-var, unused-ignore]
            async for delivery in deliveries:
                for event in delivery.events:
                    await asyncio.to_thread(self.apply, event)
                self._live = self._live or delivery.live
                async with self._changed:
                    self._position = max(self._position, delivery.examined_position)
                    self._changed.notify_all()

    async def check(self) -> None:
        """Raise while the history has not been read, or Redis cannot be reached."""
        if not self._live:
            raise ProjectionBehind(f"online features are reading the log, at position {self._position}")
        try:
            await asyncio.to_thread(self._redis.ping)
        except redis.RedisError as error:
            raise Unavailable(f"Redis cannot be reached: {error}; look at LINEAL_FEATURES_REDIS_URL") from error

    @property
    def still(self) -> None:
        """Other replicas change the state, too."""
        return None

    async def wait_for(self, position: int) -> None:
        """Return once events up to a position were applied; ProjectionBehind after the call's deadline."""
        seconds = time_left()
        try:
            async with asyncio.timeout(_WAIT_SECONDS if seconds is None else seconds), self._changed:
                await self._changed.wait_for(lambda: self._position >= position)
        except TimeoutError:
            raise ProjectionBehind(
                f"online features know the log up to position {self._position}, {position} is asked for; try again"
            ) from None

    async def layouts(self, versions: Sequence[str]) -> dict[str, Layout]:
        """Return what views keep, by version."""
        return await asyncio.to_thread(lambda: {view.version: view.layout for view in self._views(versions)})

    async def read(self, fn: Callable[[Store], T]) -> tuple[T, int]:
        """Return what `fn` reads, in a thread, and the log position that it had applied."""
        known = self._position
        try:
            return await asyncio.to_thread(self._read, fn, known)
        except redis.RedisError as error:
            raise Unavailable(f"Redis cannot be reached: {error}; try again") from error

    def _read(self, fn: Callable[[Store], T], known: int) -> tuple[T, int]:
        before = self._cursor()
        while True:
            found = fn(self)
            # State and cursor change together: one that stood still was the state's all along.
            after = self._cursor()
            if after == before:
                return found, max(known, after)
            before = after

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._redis.close)

    @property
    def moment(self) -> None:
        """Nothing says when the state changes next."""
        return None

    @property
    def standing(self) -> None:
        """What is read is good for once."""
        return None

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return what changes with an entity's state, by view version and entity."""
        keys = [(view, entity) for view in views for entity in entities]
        found: dict[tuple[str, str], tuple[int, ...]] = {}
        for key, packed in zip(keys, self.all("hget", [(self.state(*key), "m") for key in keys]), strict=True):
            if packed is not None:
                held = _unpacked(packed)
                rows, revisions = sum(chunk.rows for chunk in held), sum(chunk.revision for chunk in held)
                found[key] = held[-1].number, rows, revisions
        return found

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        """Return the packed rows of entities by view version and entity."""
        found = {}
        for key, fields in zip(wanted, self.all("hgetall", [(self.state(*key),) for key in wanted]), strict=True):
            if fields:
                numbers = [chunk.number for chunk in _unpacked(fields[b"m"])]
                parts = [b"".join(fields.get(b"%b%d" % (kind, n), b"") for n in numbers) for kind in (b"n", b"t")]
                found[key] = parts[0], parts[1]
        return found

    def apply(self, event: Event) -> None:
        """Apply an event unless it was applied before."""
        cursor = self._key("cursor")
        while True:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.watch(cursor)  # type: ignore[no-untyped-call]
                durable = int(pipe.get(cursor) or 0)
                if durable < self._applied:
                    raise RedisStateLost(f"Redis is at position {durable}, it was at {self._applied}; start again")
                if durable >= event.position:
                    self._applied = durable
                    return
                # Commands go to Redis one by one until `multi`, then together with the cursor.
                write = self._planned(event)
                pipe.multi()
                for command in write:
                    command(pipe)
                pipe.set(cursor, event.position)
                try:
                    pipe.execute()
                except redis.WatchError:
                    continue
                self._applied = event.position
                return

    def _planned(self, event: Event) -> list[Callable[[Pipeline], Any]]:
        match event.message:
            case DatasetRegistered() as registered:
                name, body = registered.dataset.name, registered.dataset.SerializeToString(deterministic=True)
                return [lambda pipe: pipe.set(self._key("dataset", name), body)]
            case BatchAccepted() as batch if batch.accepted_digest:
                key, digest = self._key("batches", batch.dataset), batch.accepted_digest
                views = self._views(sorted(v.decode() for v in self._members(self._key("views", batch.dataset))))
                added = self._added(batch.dataset, views, [digest])
                return [lambda pipe: pipe.rpush(key, digest), *added]
            case FeatureViewRegistered() as view:
                return self._registered(view)
            case _:
                return []

    def _registered(self, registered: FeatureViewRegistered) -> list[Callable[[Pipeline], Any]]:
        key = self._key("view", registered.version)
        if self._redis.exists(key):
            return []
        dataset = registered.feature_view.dataset
        body = registered.SerializeToString(deterministic=True)
        earlier: Any = self._redis.lrange(self._key("batches", dataset), 0, -1)
        view = view_of(registered, self._dataset(dataset))
        return [
            lambda pipe: pipe.set(key, body),
            lambda pipe: pipe.sadd(self._key("views", dataset), registered.version),
            *self._added(dataset, [view], [digest.decode() for digest in earlier]),
        ]

    def _added(self, name: str, views: Sequence[View], digests: Sequence[str]) -> list[Callable[[Pipeline], Any]]:
        if not views:
            return []
        dataset = self._dataset(name)
        ahead = {view.version: _Ahead(self, view.version) for view in views}
        for table in rows_of_batches(self._artifacts, dataset, views, digests):
            row_keys = row_keys_of(dataset, table)
            for view in views:
                ahead[view.version].take(*changes(view, dataset, table, row_keys, ahead[view.version]))
        return [command for one in ahead.values() for command in one.commands()]

    def _views(self, versions: Sequence[str]) -> list[View]:
        bodies = self.all("get", [(self._key("view", version),) for version in versions])
        found = [FeatureViewRegistered.FromString(body) for body in bodies if body is not None]
        return [view_of(registered, self._dataset(registered.feature_view.dataset)) for registered in found]

    def _dataset(self, name: str) -> Dataset:
        body: Any = self._redis.get(self._key("dataset", name))
        return Dataset.FromString(body)

    def _members(self, key: str) -> set[bytes]:
        members: Any = self._redis.smembers(key)
        return set(members)

    def all(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the answers to one command with several arguments, asked for together."""
        if not arguments:
            return []
        with self._redis.pipeline(transaction=False) as pipe:
            for given in arguments:
                getattr(pipe, command)(*given)
            return pipe.execute()

    def _cursor(self) -> int:
        found: Any = self._redis.get(self._key("cursor"))
        return int(found or 0)

    def state(self, version: str, entity: str) -> str:
        """Return the key of an entity's state."""
        return self._key("state", version, entity)

    def rows(self, version: str) -> str:
        """Return the key of the versions of a view's rows."""
        return self._key("rows", version)

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)


class _Ahead:
    """What one event makes of a view's state: batches of it build on one another before anything is written."""

    def __init__(self, store: RedisOnlineStore, version: str) -> None:
        self._store = store
        self._view = version
        self._chunks: dict[str, dict[int, Chunk]] = {}
        self._gone: dict[str, set[int]] = {}
        self._versions: dict[str, list[Version]] = {}

    def tails(self, entities: Sequence[str]) -> dict[str, list[Chunk]]:
        """Return the chunks of entities, in order; with their bytes where there is room for more rows."""
        missing = [entity for entity in entities if entity not in self._chunks]
        metas = self._store.all("hget", [(self._store.state(self._view, entity), "m") for entity in missing])
        for entity, packed in zip(missing, metas, strict=True):
            self._chunks[entity] = {chunk.number: chunk for chunk in _unpacked(packed or b"")}
        last = [(entity, max(self._chunks[entity])) for entity in missing if self._chunks[entity]]
        self._read([place for place in last if self._chunks[place[0]][place[1]].rows < chunks.CHUNK_ROWS])
        return {entity: list(self._chunks[entity].values()) for entity in entities if self._chunks[entity]}

    def whole(self, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Chunk]:
        """Return chunks with their bytes by entity and number."""
        self.tails(list(dict.fromkeys(entity for entity, _ in wanted)))
        there = [(entity, number) for entity, number in wanted if number in self._chunks[entity]]
        self._read([(entity, number) for entity, number in there if not self._chunks[entity][number].numbers])
        return {(entity, number): self._chunks[entity][number] for entity, number in there}

    def versions(self, row_keys: Sequence[str]) -> dict[str, list[Version]]:
        """Return the versions of rows by row key, in log order."""
        missing = [key for key in row_keys if key not in self._versions]
        if missing:
            rows = self._store.rows(self._view)
            (bodies,) = self._store.all("hmget", [(rows, [version_id(self._view, key) for key in missing])])
            self._versions |= {key: decoded(body) if body else [] for key, body in zip(missing, bodies, strict=True)}
        return {key: self._versions[key] for key in row_keys}

    def take(self, changed: Sequence[Changed], versions: Mapping[str, list[Version]]) -> None:
        """Go on from what a batch changed."""
        self._versions |= versions
        for change in changed:
            held = self._chunks[change.entity]
            held |= {chunk.number: chunk for chunk in (*change.rewritten, *change.new)}
            for number in change.forgotten:
                # A chunk that this batch began may be forgotten at once.
                held.pop(number, None)
                self._gone.setdefault(change.entity, set()).add(number)

    def commands(self) -> Iterator[Callable[[Pipeline], Any]]:
        """Yield what writes it all."""
        for entity, held in self._chunks.items():
            if held:
                yield _writing(self._store.state(self._view, entity), held, self._gone.get(entity, set()))
        if self._versions:
            rows = self._store.rows(self._view)
            bodies: dict[Any, Any] = {version_id(self._view, key): encoded(v) for key, v in self._versions.items()}
            yield lambda pipe: pipe.hset(rows, mapping=bodies)

    def _read(self, places: Sequence[tuple[str, int]]) -> None:
        asked = [(self._store.state(self._view, entity), [f"n{n}", f"t{n}"]) for entity, n in places]
        for (entity, n), (numbers, texts) in zip(places, self._store.all("hmget", asked), strict=True):
            self._chunks[entity][n] = replace(self._chunks[entity][n], numbers=numbers or b"", texts=texts or b"")


def _writing(state: str, held: dict[int, Chunk], gone: set[int]) -> Callable[[Pipeline], Any]:
    fields: dict[Any, Any] = {"m": b"".join(_CHUNK.pack(*_meta(chunk)) for chunk in held.values())}
    for chunk in held.values():
        # A chunk that was not touched came without its bytes and stays as it is.
        if chunk.numbers:
            fields |= {f"n{chunk.number}": chunk.numbers, f"t{chunk.number}": chunk.texts}

    def write(pipe: Pipeline) -> None:
        pipe.hset(state, mapping=fields)
        if gone:
            pipe.hdel(state, *(f"{kind}{n}" for n in gone for kind in "nt"))

    return write


def _meta(chunk: Chunk) -> tuple[int, ...]:
    return chunk.number, chunk.rows, chunk.max_event, chunk.max_available, chunk.lasting_event, chunk.revision


def _unpacked(packed: bytes) -> list[Chunk]:
    return [Chunk(*values) for values in _CHUNK.iter_unpack(packed)]
