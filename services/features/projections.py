"""Read tables of the declarations and training sets."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from chassis.artifacts import canonical_json
from chassis.events import Event
from chassis.paging import last_key, last_position, page_size, page_token
from lineal.api.features.v1.events_pb2 import (
    FeatureSetRegistered,
    FeatureSetRetired,
    FeatureViewRegistered,
    FeatureViewRetired,
    TrainingSetBuilt,
)
from lineal.api.features.v1.features_service_pb2 import TrainingSet
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import DatasetRegistered, DatasetRetired
from lineal.api.registry.v1.events_pb2 import ModelRegistered, ModelRetired

_metadata = MetaData()


def _versions(name: str) -> Table:
    return Table(
        name,
        _metadata,
        Column("name", String, primary_key=True),
        Column("version", String, primary_key=True),
        Column("position", BigInteger, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Index(f"{name}_in_order", "name", "position"),
    )


_datasets = Table(
    "datasets", _metadata, Column("name", String, primary_key=True), Column("body", LargeBinary, nullable=False)
)
_views = _versions("feature_views")
_sets = _versions("feature_sets")
_training_sets = Table(
    "training_sets",
    _metadata,
    Column("digest", String, primary_key=True),
    Column("inputs", String, nullable=False, index=True),
    Column("feature_set", String, nullable=False, index=True),
    Column("position", BigInteger, nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)

# The feature set of each model that is not retired.
_models = Table(
    "models", _metadata, Column("name", String, primary_key=True), Column("feature_set", String, nullable=False)
)
_retired = Table(
    "retired", _metadata, Column("kind", String, primary_key=True), Column("name", String, primary_key=True)
)
DATASET, VIEW, SET = "dataset", "feature view", "feature set"


class FeaturesTables:
    """The projection behind the reads of declarations and training sets."""

    name = "features"
    version = 2
    metadata = _metadata
    types: Sequence[type[Message]] = (
        DatasetRegistered,
        DatasetRetired,
        FeatureViewRegistered,
        FeatureViewRetired,
        FeatureSetRegistered,
        FeatureSetRetired,
        TrainingSetBuilt,
        ModelRegistered,
        ModelRetired,
    )

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event."""
        match event.message:
            case DatasetRegistered() as registered:
                name, body = registered.dataset.name, registered.dataset.SerializeToString(deterministic=True)
                changed = connection.execute(update(_datasets).where(_datasets.c.name == name).values(body=body))
                if changed.rowcount == 0:
                    connection.execute(insert(_datasets).values(name=name, body=body))
                _bring_back(connection, DATASET, name)
            case FeatureViewRegistered() as view:
                _put(connection, _views, view.feature_view.name, view.version, event)
                _bring_back(connection, VIEW, view.feature_view.name)
            case FeatureSetRegistered() as feature_set:
                _put(connection, _sets, feature_set.feature_set.name, feature_set.version, event)
                _bring_back(connection, SET, feature_set.feature_set.name)
            case DatasetRetired(dataset=name):
                connection.execute(insert(_retired).values(kind=DATASET, name=name))
            case FeatureViewRetired(feature_view=name):
                connection.execute(insert(_retired).values(kind=VIEW, name=name))
            case FeatureSetRetired(feature_set=name):
                connection.execute(insert(_retired).values(kind=SET, name=name))
            case ModelRegistered(model=model):
                connection.execute(delete(_models).where(_models.c.name == model.name))
                connection.execute(insert(_models).values(name=model.name, feature_set=model.feature_set))
            case ModelRetired(model=name):
                connection.execute(delete(_models).where(_models.c.name == name))
            case TrainingSetBuilt() as built:
                connection.execute(
                    insert(_training_sets).values(
                        digest=built.training_set_digest,
                        inputs=inputs_of(built),
                        feature_set=built.feature_set,
                        position=event.position,
                        body=built.SerializeToString(deterministic=True),
                    )
                )
            case _:
                pass


def _put(connection: Connection, table: Table, name: str, version: str, event: Event) -> None:
    # A declaration that comes back after another one is the newest again.
    assert event.message is not None
    values = {"position": event.position, "body": event.message.SerializeToString(deterministic=True)}
    same = (table.c.name == name, table.c.version == version)
    if connection.execute(update(table).where(*same).values(values)).rowcount == 0:
        connection.execute(insert(table).values(name=name, version=version, **values))


def _bring_back(connection: Connection, kind: str, name: str) -> None:
    connection.execute(delete(_retired).where(_retired.c.kind == kind, _retired.c.name == name))


def inputs_of(built: TrainingSetBuilt) -> str:
    """Return the hash of what a training set is built from, the same for the same inputs."""
    content: dict[str, Any] = {
        "feature_set": built.feature_set,
        "version": built.feature_set_version,
        "times": [
            _micros(built.start_time) if built.HasField("start_time") else None,
            _micros(built.end_time) if built.HasField("end_time") else None,
            _micros(built.label_known_time) if built.HasField("label_known_time") else None,
        ],
        "snapshots": dict(built.snapshots),
    }
    if built.HasField("sample_share"):
        content["sample_share"] = built.sample_share
    if built.unlabelled:
        content["unlabelled"] = True
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _micros(time: Timestamp) -> int:
    return time.ToMicroseconds()


def datasets(connection: Connection, names: Sequence[str]) -> dict[str, Dataset]:
    """Return those of the datasets that are declared, by name."""
    rows = connection.execute(select(_datasets).where(_datasets.c.name.in_(names)))
    return {row.name: Dataset.FromString(row.body) for row in rows}


def retired(connection: Connection, kind: str) -> set[str]:
    """Return the names of a kind, DATASET, VIEW or SET, that are retired."""
    return set(connection.execute(select(_retired.c.name).where(_retired.c.kind == kind)).scalars())


def users_of_view(connection: Connection, name: str) -> list[str]:
    """Return the feature sets, not retired, whose newest version uses a view."""
    query = select(_sets.c.name, _sets.c.body).order_by(_sets.c.name, _sets.c.position)
    newest = {row.name: FeatureSetRegistered.FromString(row.body) for row in connection.execute(query)}
    gone = retired(connection, SET)
    return [f"{SET} {used!r}" for used, found in newest.items() if used not in gone and name in found.view_versions]


def users_of_set(connection: Connection, name: str) -> list[str]:
    """Return the models, not retired, of a feature set."""
    query = select(_models.c.name).where(_models.c.feature_set == name).order_by(_models.c.name)
    return [f"model {found!r}" for found in connection.execute(query).scalars()]


def views(connection: Connection, names: Sequence[str]) -> dict[str, FeatureViewRegistered]:
    """Return the newest version of those of the views that are declared, by name."""
    query = select(_views).where(_views.c.name.in_(names)).order_by(_views.c.position)
    return {row.name: FeatureViewRegistered.FromString(row.body) for row in connection.execute(query)}


def view_versions(connection: Connection, versions: Mapping[str, str]) -> dict[str, FeatureViewRegistered]:
    """Return views by name in the versions given."""
    query = select(_views).where(_views.c.version.in_(versions.values()))
    return {row.name: FeatureViewRegistered.FromString(row.body) for row in connection.execute(query)}


def positions(connection: Connection, registered: FeatureSetRegistered) -> tuple[int, dict[str, int]]:
    """Return the log positions at which a feature set and its views were declared, the views' by name."""
    name, version = registered.feature_set.name, registered.version
    query = select(_sets.c.position).where(_sets.c.name == name, _sets.c.version == version)
    used = select(_views.c.name, _views.c.position).where(_views.c.version.in_(registered.view_versions.values()))
    return int(connection.execute(query).scalar_one()), {row[0]: row[1] for row in connection.execute(used)}


def views_page(
    connection: Connection, size: int, token: str, include_retired: bool
) -> tuple[list[FeatureViewRegistered], str]:
    """Return a page of views by name, the newest version of each, and the token of the next."""
    bodies, next_token = _newest(connection, _views, size, token, "" if include_retired else VIEW)
    return [FeatureViewRegistered.FromString(body) for body in bodies], next_token


def sets_page(
    connection: Connection, size: int, token: str, include_retired: bool
) -> tuple[list[FeatureSetRegistered], str]:
    """Return a page of feature sets by name, the newest version of each, and the token of the next."""
    bodies, next_token = _newest(connection, _sets, size, token, "" if include_retired else SET)
    return [FeatureSetRegistered.FromString(body) for body in bodies], next_token


def feature_set(connection: Connection, name: str, version: str = "") -> FeatureSetRegistered | None:
    """Return a feature set, the newest version when none is given; None when there is none."""
    query = select(_sets.c.body).where(_sets.c.name == name)
    if version:
        query = query.where(_sets.c.version == version)
    body = connection.execute(query.order_by(_sets.c.position.desc()).limit(1)).scalar()
    return FeatureSetRegistered.FromString(body) if body is not None else None


def training_set(connection: Connection, *, digest: str = "", inputs: str = "") -> TrainingSet | None:
    """Return a training set by its digest or by the hash of its inputs, None when there is none."""
    match = _training_sets.c.digest == digest if digest else _training_sets.c.inputs == inputs
    row = connection.execute(select(_training_sets).where(match)).first()
    return resource(TrainingSetBuilt.FromString(row.body), row.position) if row else None


def training_sets(connection: Connection, name: str, size: int, token: str) -> tuple[list[TrainingSet], str]:
    """Return a page of training sets, newest first, and the token of the next."""
    query = select(_training_sets).where(_training_sets.c.position < last_position(token))
    if name:
        query = query.where(_training_sets.c.feature_set == name)
    rows = connection.execute(query.order_by(_training_sets.c.position.desc()).limit(page_size(size) + 1)).all()
    page = [resource(TrainingSetBuilt.FromString(row.body), row.position) for row in rows[: page_size(size)]]
    return page, page_token(str(page[-1].position)) if len(rows) > len(page) else ""


def resource(built: TrainingSetBuilt, position: int) -> TrainingSet:
    """Return the resource that an event describes."""
    return TrainingSet(
        digest=built.training_set_digest,
        feature_set=built.feature_set,
        feature_set_version=built.feature_set_version,
        start_time=built.start_time if built.HasField("start_time") else None,
        end_time=built.end_time if built.HasField("end_time") else None,
        snapshots=built.snapshots,
        rows=built.rows,
        label_mean=built.label_mean,
        position=position,
        sample_share=built.sample_share if built.HasField("sample_share") else None,
        unlabelled=built.unlabelled,
    )


def _newest(connection: Connection, table: Table, size: int, token: str, hidden: str) -> tuple[list[bytes], str]:
    # Of the kind `hidden`, those that are retired are left out.
    gone = select(_retired.c.name).where(_retired.c.kind == hidden)
    names = (
        connection.execute(
            select(table.c.name)
            .where(table.c.name > last_key(token), table.c.name.not_in(gone))
            .distinct()
            .order_by(table.c.name)
            .limit(page_size(size) + 1)
        )
        .scalars()
        .all()
    )
    page = names[: page_size(size)]
    query = select(table.c.name, table.c.body).where(table.c.name.in_(page)).order_by(table.c.position)
    newest = {row.name: row.body for row in connection.execute(query)}
    return [newest[name] for name in page], page_token(page[-1]) if len(names) > len(page) else ""
