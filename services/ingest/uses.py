"""Read table of what refers to a dataset: feature views, feature sets, and rules of other datasets."""

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message
from sqlalchemy import Column, Connection, MetaData, String, Table, delete, insert, select

from chassis.events import Event
from lineal.api.features.v1.events_pb2 import (
    FeatureSetRegistered,
    FeatureSetRetired,
    FeatureViewRegistered,
    FeatureViewRetired,
)
from lineal.api.ingest.v1.events_pb2 import DatasetRegistered, DatasetRetired

_metadata = MetaData()
_uses = Table(
    "uses",
    _metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("dataset", String, primary_key=True, index=True),
)


class UsesTable:
    """The projection behind the refusal to retire a dataset that is used."""

    name = "uses"
    version = 1
    metadata = _metadata
    types: Sequence[type[Message]] = (
        DatasetRegistered,
        DatasetRetired,
        FeatureViewRegistered,
        FeatureViewRetired,
        FeatureSetRegistered,
        FeatureSetRetired,
    )

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the table by one event."""
        match event.message:
            case DatasetRegistered(dataset=dataset):
                referred = {rule.reference.dataset for rule in dataset.rules if rule.WhichOneof("kind") == "reference"}
                _put(connection, "dataset", dataset.name, referred - {dataset.name})
            case FeatureViewRegistered(feature_view=view):
                _put(connection, "feature view", view.name, {view.dataset})
            case FeatureSetRegistered(feature_set=declared):
                _put(connection, "feature set", declared.name, {declared.spine.dataset, declared.label.dataset} - {""})
            case DatasetRetired(dataset=name):
                _put(connection, "dataset", name, ())
            case FeatureViewRetired(feature_view=name):
                _put(connection, "feature view", name, ())
            case FeatureSetRetired(feature_set=name):
                _put(connection, "feature set", name, ())
            case _:
                pass


def users(connection: Connection, dataset: str) -> list[str]:
    """Return what refers to a dataset, by kind and name."""
    query = select(_uses.c.kind, _uses.c.name).where(_uses.c.dataset == dataset).order_by(_uses.c.kind, _uses.c.name)
    return [f"{kind} {name!r}" for kind, name in connection.execute(query)]


def _put(connection: Connection, kind: str, name: str, datasets: Iterable[str]) -> None:
    connection.execute(delete(_uses).where(_uses.c.kind == kind, _uses.c.name == name))
    for dataset in datasets:
        connection.execute(insert(_uses).values(kind=kind, name=name, dataset=dataset))
