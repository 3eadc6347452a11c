"""The tables of predictions: once for records that wait to be sealed, once for sealed ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    select,
)

from lineal.api.monitor.v1.prediction_pb2 import MirroredScore, PredictionRecord

# SQLite takes 32,766 parameters a statement.
CHUNK = 500


@dataclass(frozen=True)
class PredictionTables:
    """Predictions by id and mirrored scores by id and bundle; `record` has the serialised message."""

    predictions: Table
    mirrored: Table


def define(metadata: MetaData) -> PredictionTables:
    """Define the tables in a metadata. `segment` is empty while a record waits to be sealed."""
    predictions = Table(
        "predictions",
        metadata,
        Column("prediction_id", String, primary_key=True),
        Column("endpoint", String, nullable=False, index=True),
        Column("event_time", BigInteger, nullable=False, index=True),
        Column("generation", BigInteger, nullable=False),
        Column("arm", String, nullable=False),
        Column("bundle_digest", String, nullable=False),
        Column("unit", String, nullable=False),
        Column("score", Float, nullable=False),
        Column("label_key", String, nullable=False),
        Column("trace_id", String, nullable=False),
        Column("latency", BigInteger, nullable=False),
        Column("fallback", Integer, nullable=False),
        Column("segment", String, nullable=False),
        Column("record", LargeBinary, nullable=False),
    )
    mirrored = Table(
        "mirrored",
        metadata,
        Column("prediction_id", String, primary_key=True),
        Column("bundle_digest", String, primary_key=True),
        Column("endpoint", String, nullable=False, index=True),
        Column("arm", String, nullable=False),
        Column("score", Float),
        Column("failure", String, nullable=False),
        Column("latency", BigInteger, nullable=False),
        Column("record", LargeBinary, nullable=False),
    )
    return PredictionTables(predictions, mirrored)


def prediction_row(record: PredictionRecord, segment: str) -> dict[str, Any]:
    """Return the row of a record; the label key falls back to the prediction id, which outcomes may name too."""
    return {
        "prediction_id": record.prediction_id,
        "endpoint": record.endpoint,
        "event_time": record.event_time_micros,
        "generation": record.generation,
        "arm": record.arm,
        "bundle_digest": record.bundle_digest,
        "unit": record.unit,
        "score": record.score,
        "label_key": record.label_key or record.prediction_id,
        "trace_id": record.trace_id,
        "latency": record.latency_micros,
        "fallback": int(record.fallback),
        "segment": segment,
        "record": record.SerializeToString(deterministic=True),
    }


def mirrored_row(score: MirroredScore, endpoint: str) -> dict[str, Any]:
    """Return the row of a mirrored score; a failed one has no number."""
    return {
        "prediction_id": score.prediction_id,
        "bundle_digest": score.bundle_digest,
        "endpoint": endpoint,
        "arm": score.arm,
        "score": None if score.score != score.score else score.score,
        "failure": score.failure,
        "latency": score.latency_micros,
        "record": score.SerializeToString(deterministic=True),
    }


def insert_new(connection: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> int:
    """Insert rows whose key is not there yet, in chunks; return how many there were."""
    keys = [column.name for column in table.primary_key.columns]
    unique = {tuple(row[key] for key in keys): row for row in reversed(list(rows))}
    rows = list(reversed(unique.values()))
    inserted = 0
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        known = existing(connection, table, [row["prediction_id"] for row in chunk])
        fresh = [row for row in chunk if tuple(row[key] for key in keys) not in known]
        if fresh:
            connection.execute(insert(table), fresh)
        inserted += len(fresh)
    return inserted


def existing(connection: Connection, table: Table, prediction_ids: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the keys that a table has for these predictions."""
    found: set[tuple[str, ...]] = set()
    for start in range(0, len(prediction_ids), CHUNK):
        chunk = prediction_ids[start : start + CHUNK]
        query = select(*table.primary_key.columns).where(table.c.prediction_id.in_(chunk))
        found.update(tuple(row) for row in connection.execute(query))
    return found
