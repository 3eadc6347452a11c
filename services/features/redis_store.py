"""Online state in Redis, for many replicas of features: the effect of an event and the cursor in one MULTI.

Whoever applies an event watches the cursor, so of several replicas one applies it and the others go on behind. Keys,
under `lineal:online:v1:`: `cursor`; `dataset:<name>` and `view:<version>` (messages); `views:<dataset>` (versions, a
set); `batches:<dataset>` (digests, a list); `state:<version>:<entity>`, a hash with `m` (number, rows, and greatest
times of the chunks), and for each chunk `n<number>` and `t<number>`.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from contextlib import aclosing
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
from services.features.state import View, changes, rows_of_batches, view_of

T = TypeVar("T")
_TYPES = (DatasetRegistered, BatchAccepted, FeatureViewRegistered)
_CHUNK = struct.Struct("<qqqq")
_WAIT_SECONDS = 10.0


class RedisStateLost(Exception):
    """Redis knows less than it did: the process ends, and the next one builds the state from the log."""


class RedisOnlineStore:
    """Online state in Redis. `run` follows the log until cancelled; failures of Redis are raised."""

    def __init__(self, url: str, log: EventLog, artifacts: ArtifactStore, prefix: str = "lineal:online:v1:") -> None:
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

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return what changes with an entity's state, by view version and entity."""
        keys = [(view, entity) for view in views for entity in entities]
        found: dict[tuple[str, str], tuple[int, ...]] = {}
        for key, packed in zip(keys, self._all("hget", [(self._state(*key), "m") for key in keys]), strict=True):
            if packed is not None:
                held = _unpacked(packed)
                found[key] = held[-1].number, sum(chunk.rows for chunk in held)
        return found

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        """Return the packed rows of entities by view version and entity."""
        found = {}
        for key, fields in zip(wanted, self._all("hgetall", [(self._state(*key),) for key in wanted]), strict=True):
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
        # Batches of one event build on one another before anything is written.
        ahead: dict[str, dict[int, Chunk]] = {}
        gone: dict[str, set[int]] = {}
        for table in rows_of_batches(self._artifacts, dataset, views, digests):
            for view in views:
                for change in changes(view, dataset, table, lambda e, v=view: self._held(v.version, e, ahead)):  # type: ignore[misc]
                    state = self._state(view.version, change.entity)
                    held = ahead[state]
                    for n, packed in change.written:
                        held[n] = Chunk(
                            n, packed.rows, packed.max_event, packed.max_available, packed.numbers, packed.texts
                        )
                    for n in change.forgotten:
                        del held[n]
                        gone.setdefault(state, set()).add(n)
        return [_writing(state, held, gone.get(state, set())) for state, held in ahead.items()]

    def _held(self, version: str, entities: list[str], ahead: dict[str, dict[int, Chunk]]) -> dict[str, list[Chunk]]:
        states = {entity: self._state(version, entity) for entity in entities}
        missing = [state for state in states.values() if state not in ahead]
        for state, packed in zip(missing, self._all("hget", [(state, "m") for state in missing]), strict=True):
            ahead[state] = {chunk.number: chunk for chunk in _unpacked(packed or b"")}
        tails = [(s, max(ahead[s])) for s in missing if ahead[s] and ahead[s][max(ahead[s])].rows < chunks.CHUNK_ROWS]
        fields = self._all("hmget", [(state, [f"n{n}", f"t{n}"]) for state, n in tails])
        for (state, n), (numbers, texts) in zip(tails, fields, strict=True):
            last = ahead[state][n]
            ahead[state][n] = Chunk(n, last.rows, last.max_event, last.max_available, numbers, texts or b"")
        return {entity: list(ahead[state].values()) for entity, state in states.items() if ahead[state]}

    def _views(self, versions: Sequence[str]) -> list[View]:
        bodies = self._all("get", [(self._key("view", version),) for version in versions])
        found = [FeatureViewRegistered.FromString(body) for body in bodies if body is not None]
        return [view_of(registered, self._dataset(registered.feature_view.dataset)) for registered in found]

    def _dataset(self, name: str) -> Dataset:
        body: Any = self._redis.get(self._key("dataset", name))
        return Dataset.FromString(body)

    def _members(self, key: str) -> set[bytes]:
        members: Any = self._redis.smembers(key)
        return set(members)

    def _all(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        if not arguments:
            return []
        with self._redis.pipeline(transaction=False) as pipe:
            for given in arguments:
                getattr(pipe, command)(*given)
            return pipe.execute()

    def _cursor(self) -> int:
        found: Any = self._redis.get(self._key("cursor"))
        return int(found or 0)

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def _state(self, version: str, entity: str) -> str:
        return self._key("state", version, entity)


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


def _meta(chunk: Chunk) -> tuple[int, int, int, int]:
    return chunk.number, chunk.rows, chunk.max_event, chunk.max_available


def _unpacked(packed: bytes) -> list[Chunk]:
    return [Chunk(*values) for values in _CHUNK.iter_unpack(packed)]
