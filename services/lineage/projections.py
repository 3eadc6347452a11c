"""The lineage graph as read tables: what was made from what, learnt from the events of the other services.

A snapshot holds every batch of its dataset up to a position. Those edges are not stored, as there would be batches
times snapshots of them; `services.lineage.graph` finds them by dataset and position. It is the same with segments whose
predictions looked features up: any batch that their dataset had by then may be behind one.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from google.protobuf.message import Message
from sqlalchemy import BigInteger, Column, Connection, Index, Integer, MetaData, Table, Text, insert, select, update

from chassis.events import Event
from chassis.records import type_name
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, SnapshotCreated
from lineal.api.lineage.v1.graph_pb2 import NodeKind
from lineal.api.monitor.v1.events_pb2 import SegmentSealed
from lineal.api.registry.v1.events_pb2 import BundleRegistered
from lineal.api.serving.v1.events_pb2 import ScoringCompleted
from lineal.api.trainer.v1.events_pb2 import ModelImported, RunCompleted, RunStarted

_metadata = MetaData()
nodes = Table(
    "nodes",
    _metadata,
    Column("kind", Integer, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    # Batches and snapshots: the dataset, and the position up to which its batches count.
    Column("dataset", Text, nullable=True),
    Column("as_of", BigInteger, nullable=True),
    Index("nodes_dataset", "dataset", "kind", "as_of"),
)
edges = Table(
    "edges",
    _metadata,
    Column("source_kind", Integer, primary_key=True),
    Column("source_name", Text, primary_key=True),
    Column("target_kind", Integer, primary_key=True),
    Column("target_name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Index("edges_target", "target_kind", "target_name"),
)
# Datasets of the versions of views and of feature sets, and what the predictions of segments looked up from which.
_views = Table("views", _metadata, Column("version", Text, primary_key=True), Column("dataset", Text, nullable=False))
_sets = Table(
    "feature_sets",
    _metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("dataset", Text, primary_key=True),
)
lookups = Table(
    "lookups",
    _metadata,
    Column("dataset", Text, primary_key=True),
    Column("segment", Text, primary_key=True),
    # The greatest log position that looked-up features had applied.
    Column("reach", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
)

Key = tuple[int, str]


class GraphProjection:
    """Nodes and edges of the lineage graph."""

    name = "graph"
    version = 3
    metadata = _metadata
    types: Sequence[type[Message]] = (
        BatchAccepted,
        SnapshotCreated,
        FeatureViewRegistered,
        FeatureSetRegistered,
        TrainingSetBuilt,
        RunStarted,
        RunCompleted,
        ModelImported,
        BundleRegistered,
        SegmentSealed,
        ScoringCompleted,
    )

    def apply(self, connection: Connection, event: Event) -> None:
        """Add what an event made, and what it was made from."""
        if event.message is not None:
            _RULES[event.type](_Writing(connection, event), event.message)


class _Writing:
    def __init__(self, connection: Connection, event: Event) -> None:
        self._connection = connection
        self._event = event

    def node(self, kind: int, name: str, dataset: str | None = None, as_of: int | None = None) -> Key:
        key = nodes.c.kind == kind, nodes.c.name == name
        if self._connection.execute(select(nodes.c.kind).where(*key)).first() is None:
            values = {"kind": kind, "name": name, "position": self._event.position, "type": self._event.type}
            self._connection.execute(insert(nodes).values(**values, dataset=dataset, as_of=as_of))
        return kind, name

    def edge(self, source: Key, target: Key) -> None:
        values = {
            "source_kind": source[0],
            "source_name": source[1],
            "target_kind": target[0],
            "target_name": target[1],
        }
        there = select(edges.c.position).where(*(edges.c[name] == value for name, value in values.items()))
        if self._connection.execute(there).first() is None:
            self._connection.execute(insert(edges).values(**values, position=self._event.position))

    def view(self, version: str, dataset: str) -> None:
        if self._connection.execute(select(_views.c.version).where(_views.c.version == version)).first() is None:
            self._connection.execute(insert(_views).values(version=version, dataset=dataset))

    def feature_set(self, name: str, version: str, view_versions: Collection[str]) -> None:
        if self.datasets(name, version):
            return
        query = select(_views.c.dataset).where(_views.c.version.in_(view_versions)).distinct()
        for dataset in self._connection.execute(query).scalars().all():
            self._connection.execute(insert(_sets).values(name=name, version=version, dataset=dataset))

    def datasets(self, feature_set: str, version: str) -> Sequence[str]:
        query = select(_sets.c.dataset).where(_sets.c.name == feature_set, _sets.c.version == version)
        return self._connection.execute(query.order_by(_sets.c.dataset)).scalars().all()

    def lookup(self, dataset: str, segment: str, reach: int) -> None:
        same = lookups.c.dataset == dataset, lookups.c.segment == segment
        before = self._connection.execute(select(lookups.c.reach).where(*same)).scalar()
        if before is None:
            values = {"dataset": dataset, "segment": segment, "reach": reach, "position": self._event.position}
            self._connection.execute(insert(lookups).values(values))
        elif before < reach:
            self._connection.execute(update(lookups).where(*same).values(reach=reach))

    @property
    def position(self) -> int:
        return self._event.position


def _batch_accepted(write: _Writing, event: BatchAccepted) -> None:
    if event.accepted_rows:
        write.node(NodeKind.NODE_KIND_BATCH, f"{event.dataset}/{event.batch_id}", event.dataset, write.position)


def _snapshot_created(write: _Writing, event: SnapshotCreated) -> None:
    write.node(NodeKind.NODE_KIND_SNAPSHOT, event.snapshot_digest, event.dataset, event.as_of_position)


def _view_registered(write: _Writing, event: FeatureViewRegistered) -> None:
    write.view(event.version, event.feature_view.dataset)


def _set_registered(write: _Writing, event: FeatureSetRegistered) -> None:
    write.feature_set(event.feature_set.name, event.version, event.view_versions.values())


def _training_set_built(write: _Writing, event: TrainingSetBuilt) -> None:
    made = write.node(NodeKind.NODE_KIND_TRAINING_SET, event.training_set_digest)
    for dataset, digest in sorted(event.snapshots.items()):
        write.edge(write.node(NodeKind.NODE_KIND_SNAPSHOT, digest, dataset), made)


def _run_started(write: _Writing, event: RunStarted) -> None:
    run = write.node(NodeKind.NODE_KIND_RUN, event.run_id)
    if event.training_set_digest:
        write.edge(write.node(NodeKind.NODE_KIND_TRAINING_SET, event.training_set_digest), run)


def _run_completed(write: _Writing, event: RunCompleted | ModelImported) -> None:
    run = write.node(NodeKind.NODE_KIND_RUN, event.run_id)
    write.edge(run, write.node(NodeKind.NODE_KIND_BUNDLE, event.bundle_digest))


def _bundle_registered(write: _Writing, event: BundleRegistered) -> None:
    bundle = write.node(NodeKind.NODE_KIND_BUNDLE, event.bundle_digest)
    if event.run_id:
        write.edge(write.node(NodeKind.NODE_KIND_RUN, event.run_id), bundle)


def _segment_sealed(write: _Writing, event: SegmentSealed) -> None:
    segment = write.node(NodeKind.NODE_KIND_SEGMENT, event.segment_digest)
    for digest in event.bundle_digests:
        write.edge(write.node(NodeKind.NODE_KIND_BUNDLE, digest), segment)
    for lookup in event.lookups:
        for dataset in write.datasets(lookup.feature_set, lookup.feature_set_version):
            write.lookup(dataset, event.segment_digest, lookup.max_position)


def _scoring_completed(write: _Writing, event: ScoringCompleted) -> None:
    scoring = write.node(NodeKind.NODE_KIND_SCORING, event.result.result_digest)
    # Of past predictions what both bundles were made from counts; the segments lead to the same bundles.
    for digest in (event.bundle_digest, *event.answering_bundle_digests):
        write.edge(write.node(NodeKind.NODE_KIND_BUNDLE, digest), scoring)
    if event.training_set_digest:
        write.edge(write.node(NodeKind.NODE_KIND_TRAINING_SET, event.training_set_digest), scoring)
    elif event.snapshot_digest:
        write.edge(write.node(NodeKind.NODE_KIND_SNAPSHOT, event.snapshot_digest), scoring)


_RULES: dict[str, Callable[[_Writing, Any], None]] = {
    type_name(BatchAccepted): _batch_accepted,
    type_name(SnapshotCreated): _snapshot_created,
    type_name(FeatureViewRegistered): _view_registered,
    type_name(FeatureSetRegistered): _set_registered,
    type_name(TrainingSetBuilt): _training_set_built,
    type_name(RunStarted): _run_started,
    type_name(RunCompleted): _run_completed,
    type_name(ModelImported): _run_completed,
    type_name(BundleRegistered): _bundle_registered,
    type_name(SegmentSealed): _segment_sealed,
    type_name(ScoringCompleted): _scoring_completed,
}
