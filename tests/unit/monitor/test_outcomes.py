from datetime import UTC, datetime

import pyarrow as pa
from google.protobuf.message import Message
from sqlalchemy import Connection, create_engine, select

from chassis.events import Event
from chassis.memory_artifacts import InMemoryArtifactStore
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from services.monitor.projections import OUTCOMES, OutcomeTables
from tabular.parquet import to_parquet


def test_a_corrected_outcome_takes_the_place_of_the_one_before_and_null_clears_it() -> None:
    artifacts = InMemoryArtifactStore()
    registered = FeatureSetRegistered()
    registered.feature_set.label.dataset, registered.feature_set.label.column = "loans", "defaulted"
    registered.feature_set.label.key.append("loan")
    batches = [
        {"loan": ["a", "b", "c"], "defaulted": [1.0, 0.0, None]},
        {"loan": ["a", "c"], "defaulted": [None, 1.0]},
        {"loan": ["b", "b"], "defaulted": [None, 1.0]},
    ]
    accepted = [
        BatchAccepted(dataset="loans", batch_id=str(n), accepted_digest=artifacts.put(to_parquet(pa.table(rows))))
        for n, rows in enumerate(batches, 1)
    ]
    found = []
    engine = create_engine("sqlite://")
    tables = OutcomeTables(artifacts)
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        for position, message in enumerate([registered, *accepted]):
            tables.apply(connection, _event(position, message))
            found.append(_outcomes(connection))
    engine.dispose()
    assert found == [{}, {"a": 1.0, "b": 0.0}, {"b": 0.0, "c": 1.0}, {"b": 1.0, "c": 1.0}]


def _outcomes(connection: Connection) -> dict[str, float]:
    rows = connection.execute(select(OUTCOMES.c.label_key, OUTCOMES.c.number).order_by(OUTCOMES.c.label_key))
    return {row.label_key: row.number for row in rows}


def _event(position: int, message: Message) -> Event:
    now = datetime(2024, 5, 1, tzinfo=UTC)
    kind = message.DESCRIPTOR.full_name
    return Event(position, "s", position, f"e{position}", f"r{position}", kind, message, now, now, "", "", "", "")
