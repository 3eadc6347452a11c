"""Online state: a projection that keeps, per view and entity, the rows that features are computed from.

It is fed by accepted batches and reads their rows by digest. A view that is declared after its data is filled from the
batches that came before. State and cursor commit together.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from chassis.artifacts import ArtifactStore
from chassis.events import Event
from lineal.api.features.v1.events_pb2 import FeatureViewRegistered
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, DatasetRegistered
from services.features import chunks
from services.features.chunks import Chunk
from services.features.packing import Layout
from services.features.state import (
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
_KEYS_AT_ONCE = 5_000
_META = ("rows", "max_event", "max_available", "lasting_event", "revision")
_CONTENT = (*_META, "numbers", "texts")

metadata = MetaData()
_datasets = Table(
    "online_datasets", metadata, Column("name", String, primary_key=True), Column("body", LargeBinary, nullable=False)
)
_batches = Table(
    "online_batches",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("dataset", String, nullable=False, index=True),
    Column("digest", String, nullable=False),
)
_views = Table(
    "online_views",
    metadata,
    Column("version", String, primary_key=True),
    Column("dataset", String, nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)
_chunks = Table(
    "online_chunks",
    metadata,
    Column("view", String, primary_key=True),
    Column("entity", String, primary_key=True),
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    Column("rows", Integer, nullable=False),
    Column("max_event", BigInteger, nullable=False),
    Column("max_available", BigInteger, nullable=False),
    Column("lasting_event", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("numbers", LargeBinary, nullable=False),
    Column("texts", LargeBinary, nullable=False),
    # Covers what says whether a cached state is still good.
    Index("online_chunk_rows", "view", "entity", "chunk", "rows", "revision"),
)
_versions = Table(
    "online_versions",
    metadata,
    # View and row key, as bytes: there is one for each row that was ever accepted.
    Column("id", LargeBinary, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)


class OnlineTables:
    """The projection behind online features."""

    name = "online"
    version = 2
    metadata = metadata
    types: Sequence[type[Message]] = (DatasetRegistered, BatchAccepted, FeatureViewRegistered)

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event."""
        match event.message:
            case DatasetRegistered() as registered:
                name, body = registered.dataset.name, registered.dataset.SerializeToString(deterministic=True)
                changed = connection.execute(update(_datasets).where(_datasets.c.name == name).values(body=body))
                if changed.rowcount == 0:
                    connection.execute(insert(_datasets).values(name=name, body=body))
            case BatchAccepted() as batch if batch.accepted_digest:
                connection.execute(
                    insert(_batches).values(
                        position=event.position, dataset=batch.dataset, digest=batch.accepted_digest
                    )
                )
                dataset = _dataset(connection, batch.dataset)
                self._add(connection, dataset, _views_of(connection, dataset), [batch.accepted_digest])
            case FeatureViewRegistered() as view:
                self._register(connection, view)
            case _:
                pass

    def _register(self, connection: Connection, registered: FeatureViewRegistered) -> None:
        if connection.execute(select(_views.c.version).where(_views.c.version == registered.version)).first():
            return
        view = registered.feature_view
        body = registered.SerializeToString(deterministic=True)
        connection.execute(insert(_views).values(version=registered.version, dataset=view.dataset, body=body))
        dataset = _dataset(connection, view.dataset)
        earlier = select(_batches.c.digest).where(_batches.c.dataset == view.dataset).order_by(_batches.c.position)
        digests = list(connection.execute(earlier).scalars())
        self._add(connection, dataset, [view_of(registered, dataset)], digests)

    def _add(self, connection: Connection, dataset: Dataset, views: Sequence[View], digests: Sequence[str]) -> None:
        if not views:
            return
        for table in rows_of_batches(self._artifacts, dataset, views, digests):
            row_keys = row_keys_of(dataset, table)
            for view in views:
                _add_rows(connection, view, dataset, table, row_keys)


def _add_rows(connection: Connection, view: View, dataset: Dataset, table: pa.Table, row_keys: Sequence[str]) -> None:
    stored = StoredView(connection, view.version)
    found, versions = changes(view, dataset, table, row_keys, stored)
    rewritten: list[dict[str, Any]] = []
    new: list[dict[str, Any]] = []
    forgotten: list[dict[str, Any]] = []
    for change in found:
        place = {"view": view.version, "entity": change.entity}
        for chunk in change.rewritten:
            values = place | {"chunk": chunk.number} | {name: getattr(chunk, name) for name in _CONTENT}
            rewritten.append({f"_{name}": value for name, value in values.items()})
        new += [
            place | {"chunk": chunk.number} | {name: getattr(chunk, name) for name in _CONTENT} for chunk in change.new
        ]
        forgotten += [
            {"_view": view.version, "_entity": change.entity, "_chunk": number} for number in change.forgotten
        ]
    same = [_chunks.c[name] == bindparam(f"_{name}") for name in ("view", "entity", "chunk")]
    if rewritten:
        content: dict[str, Any] = {name: bindparam(f"_{name}") for name in _CONTENT}
        connection.execute(update(_chunks).where(*same).values(content), rewritten)
    if new:
        connection.execute(insert(_chunks), new)
    if forgotten:
        connection.execute(delete(_chunks).where(*same), forgotten)
    stored.keep(versions)


class StoredView:
    """What the tables have of one view."""

    def __init__(self, connection: Connection, version: str) -> None:
        self._connection = connection
        self._view = version
        self._ids: dict[str, bytes] = {}
        self._there: set[bytes] = set()

    def tails(self, entities: Sequence[str]) -> dict[str, list[Chunk]]:
        """Return the chunks of entities, in order; with their bytes where there is room for more rows."""
        found: dict[str, list[Chunk]] = {}
        room = _chunks.c.rows < chunks.CHUNK_ROWS
        columns: list[ColumnElement[Any]] = [
            *(_chunks.c[name] for name in ("entity", "chunk", *_META)),
            *(case((room, _chunks.c[name])).label(name) for name in ("numbers", "texts")),
        ]
        for part in _parts(entities):
            query = select(*columns).where(_chunks.c.view == self._view, _chunks.c.entity.in_(part))
            for entity, *rest in self._connection.execute(query.order_by(_chunks.c.chunk)):
                found.setdefault(entity, []).append(Chunk(*rest))
        return found

    def whole(self, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Chunk]:
        """Return chunks with their bytes by entity and number."""
        found = {}
        columns = [_chunks.c[name] for name in ("entity", "chunk", *_CONTENT)]
        for part in _parts(wanted):
            place = tuple_(_chunks.c.entity, _chunks.c.chunk)
            query = select(*columns).where(_chunks.c.view == self._view, place.in_(part))
            for entity, *rest in self._connection.execute(query):
                chunk = Chunk(*rest)
                found[entity, chunk.number] = chunk
        return found

    def versions(self, row_keys: Sequence[str]) -> dict[str, list[Version]]:
        """Return the versions of rows by row key, in log order."""
        self._ids = {key: version_id(self._view, key) for key in row_keys}
        ids = {id_: key for key, id_ in self._ids.items()}
        found = {}
        for part in _parts(list(ids)):
            query = select(_versions.c.id, _versions.c.body).where(_versions.c.id.in_(part))
            for id_, body in self._connection.execute(query):
                self._there.add(bytes(id_))
                found[ids[bytes(id_)]] = decoded(body)
        return found

    def keep(self, versions: Mapping[str, Sequence[Version]]) -> None:
        """Write down the versions of rows, of which those that were there were read before."""
        rows = [{"_id": self._ids[key], "_body": encoded(found)} for key, found in versions.items()]
        again = [row for row in rows if row["_id"] in self._there]
        new = [{"id": row["_id"], "body": row["_body"]} for row in rows if row["_id"] not in self._there]
        if again:
            same = _versions.c.id == bindparam("_id")
            self._connection.execute(update(_versions).where(same).values(body=bindparam("_body")), again)
        if new:
            self._connection.execute(insert(_versions), new)


# Made once: making it costs a read as much as asking it.
_signatures = (
    select(
        _chunks.c.view,
        _chunks.c.entity,
        func.max(_chunks.c.chunk),
        func.sum(_chunks.c.rows),
        func.sum(_chunks.c.revision),
    )
    .where(
        _chunks.c.view.in_(bindparam("views", expanding=True)),
        _chunks.c.entity.in_(bindparam("entities", expanding=True)),
    )
    .group_by(_chunks.c.view, _chunks.c.entity)
)


def signatures(
    connection: Connection, views: Sequence[str], entities: Sequence[str]
) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return, by view version and entity, the number of the newest chunk, the rows and the revisions in all.

    Rows are added to the newest chunk, and chunks are forgotten only when a newer one begins: no two states share all.
    """
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for part in _parts(entities):
        for view, entity, *signature in connection.execute(_signatures, {"views": views, "entities": part}):
            found[view, entity] = tuple(int(count) for count in signature)
    return found


def states(connection: Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    """Return the packed rows of entities by view version and entity."""
    parts: dict[tuple[str, str], list[tuple[bytes, bytes]]] = {}
    by_view: dict[str, list[str]] = {}
    for view, entity in wanted:
        by_view.setdefault(view, []).append(entity)
    for view, entities in by_view.items():
        for part in _parts(entities):
            query = select(_chunks.c.entity, _chunks.c.numbers, _chunks.c.texts).where(
                _chunks.c.view == view, _chunks.c.entity.in_(part)
            )
            for entity, numbers, texts in connection.execute(query.order_by(_chunks.c.chunk)):
                parts.setdefault((view, entity), []).append((numbers, texts))
    return {key: (b"".join(n for n, _ in found), b"".join(t for _, t in found)) for key, found in parts.items()}


def layouts(connection: Connection, versions: Sequence[str]) -> dict[str, Layout]:
    """Return what views keep, by version; views that the projection has not seen are left out."""
    rows = connection.execute(select(_views).where(_views.c.version.in_(versions))).all()
    return {
        row.version: view_of(FeatureViewRegistered.FromString(row.body), _dataset(connection, row.dataset)).layout
        for row in rows
    }


def _parts(wanted: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(wanted), _KEYS_AT_ONCE):
        yield wanted[start : start + _KEYS_AT_ONCE]


def _dataset(connection: Connection, name: str) -> Dataset:
    return Dataset.FromString(connection.execute(select(_datasets.c.body).where(_datasets.c.name == name)).scalar_one())


def _views_of(connection: Connection, dataset: Dataset) -> list[View]:
    query = select(_views.c.body).where(_views.c.dataset == dataset.name).order_by(_views.c.version)
    bodies = connection.execute(query).scalars()
    return [view_of(FeatureViewRegistered.FromString(body), dataset) for body in bodies]
