"""Read tables of monitor: sealed predictions, outcomes, closed periods and alarms."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
)

from chassis.artifacts import ArtifactStore
from chassis.events import Event
from chassis.paging import last_position, page_size, page_token
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from lineal.api.monitor.v1.events_pb2 import AlarmRaised, PeriodClosed, SegmentSealed
from lineal.api.monitor.v1.report_pb2 import Alarm, Period
from services.monitor.labels import keys_of, label_name
from services.monitor.segments import Segment
from services.monitor.tables import CHUNK, define, insert_new, mirrored_row, prediction_row

_sealed_metadata = MetaData()
SEALED = define(_sealed_metadata)
SEGMENTS = Table(
    "segments",
    _sealed_metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("endpoint", String, index=True),
    Column("digest", String),
    Column("min_event_time", BigInteger),
    Column("max_event_time", BigInteger),
)
_periods, _alarms = (
    Table(
        name,
        _sealed_metadata,
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("endpoint", String, index=True),
        Column("body", LargeBinary),
    )
    for name in ("periods", "alarms")
)

_outcome_metadata = MetaData()
_batches = Table(
    "batches",
    _outcome_metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("dataset", String, index=True),
    Column("batch_id", String),
    Column("digest", String),
)
_labels = Table(
    "labels",
    _outcome_metadata,
    Column("label", String, primary_key=True),
    Column("dataset", String, index=True),
    Column("key_columns", String),
    Column("value_column", String),
)
OUTCOMES = Table(
    "outcomes",
    _outcome_metadata,
    Column("label", String, primary_key=True),
    Column("label_key", String, primary_key=True),
    Column("number", Float),
    Column("text", String),
    Column("batch", String),
    Column("position", BigInteger),
)


class SealedTables:
    """Sealed predictions, segments, periods and alarms."""

    name = "predictions"
    version = 1
    metadata = _sealed_metadata
    types: Sequence[type[Message]] = (SegmentSealed, PeriodClosed, AlarmRaised)

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event."""
        match event.message:
            case SegmentSealed() as sealed:
                self._apply_segment(connection, event.position, sealed)
            case PeriodClosed() as closed:
                period = Period()
                period.CopyFrom(closed.period)
                _insert(connection, _periods, event, period)
            case AlarmRaised() as raised:
                alarm = Alarm()
                alarm.CopyFrom(raised.alarm)
                alarm.raise_time.FromDatetime(event.recorded_time)
                _insert(connection, _alarms, event, alarm)

    def _apply_segment(self, connection: Connection, position: int, sealed: SegmentSealed) -> None:
        predictions, mirrored = Segment.from_parquet(self._artifacts.read(sealed.segment_digest)).decoded()
        insert_new(
            connection, SEALED.predictions, [prediction_row(record, sealed.segment_digest) for record in predictions]
        )
        insert_new(connection, SEALED.mirrored, [mirrored_row(score, sealed.endpoint) for score in mirrored])
        connection.execute(
            insert(SEGMENTS).values(
                position=position,
                endpoint=sealed.endpoint,
                digest=sealed.segment_digest,
                min_event_time=sealed.min_event_time.ToMicroseconds(),
                max_event_time=sealed.max_event_time.ToMicroseconds(),
            )
        )


class OutcomeTables:
    """Values of label columns by key, for every label that a feature set has declared."""

    name = "outcomes"
    version = 2
    metadata = _outcome_metadata
    types: Sequence[type[Message]] = (FeatureSetRegistered, BatchAccepted)

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event."""
        match event.message:
            case FeatureSetRegistered() as registered:
                self._apply_label(connection, registered)
            case BatchAccepted() as batch if batch.accepted_digest:
                connection.execute(
                    insert(_batches).values(
                        position=event.position,
                        dataset=batch.dataset,
                        batch_id=batch.batch_id,
                        digest=batch.accepted_digest,
                    )
                )
                for label in connection.execute(select(_labels).where(_labels.c.dataset == batch.dataset)).all():
                    self._apply_batch(connection, label, event.position, batch.batch_id, batch.accepted_digest)

    def _apply_label(self, connection: Connection, registered: FeatureSetRegistered) -> None:
        declared = registered.feature_set.label
        if not declared.dataset:
            return
        name = label_name(declared)
        if connection.execute(select(_labels.c.label).where(_labels.c.label == name)).first() is not None:
            return
        label = {
            "label": name,
            "dataset": declared.dataset,
            "key_columns": "\n".join(declared.key),
            "value_column": declared.column,
        }
        connection.execute(insert(_labels).values(**label))
        row = connection.execute(select(_labels).where(_labels.c.label == name)).one()
        query = select(_batches).where(_batches.c.dataset == declared.dataset).order_by(_batches.c.position)
        for batch in connection.execute(query).all():
            self._apply_batch(connection, row, batch.position, batch.batch_id, batch.digest)

    def _apply_batch(self, connection: Connection, label: Any, position: int, batch_id: str, digest: str) -> None:
        columns = label.key_columns.split("\n")
        table = pq.read_table(io.BytesIO(self._artifacts.read(digest)), columns=[*columns, label.value_column])
        values = table[label.value_column]
        numbers = _numbers(values)
        texts = [None] * len(table) if numbers is not None else [_text(value) for value in values.to_pylist()]
        rows: dict[str, dict[str, Any]] = {}
        for index, key in enumerate(keys_of(table, columns)):
            rows[key] = {
                "label": label.label,
                "label_key": key,
                "number": numbers[index] if numbers is not None else None,
                "text": texts[index],
                "batch": f"{label.dataset}/{batch_id}",
                "position": position,
            }
        keys = list(rows)
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            # A corrected outcome takes the place of the one before; as in training sets, null says that none is known.
            connection.execute(delete(OUTCOMES).where(OUTCOMES.c.label == label.label, OUTCOMES.c.label_key.in_(chunk)))
            known = [row for row in (rows[key] for key in chunk) if (row["number"], row["text"]) != (None, None)]
            if known:
                connection.execute(insert(OUTCOMES), known)


def is_segment(connection: Connection, digest: str) -> bool:
    """Tell whether a segment of that digest was sealed."""
    return connection.execute(select(SEGMENTS.c.position).where(SEGMENTS.c.digest == digest)).first() is not None


def segments_between(connection: Connection, endpoint: str, start: int, end: int) -> list[str]:
    """Return the digests of segments that hold event times in [start, end) microseconds, in order of the log."""
    query = (
        select(SEGMENTS.c.digest)
        .where(SEGMENTS.c.endpoint == endpoint, SEGMENTS.c.min_event_time < end, SEGMENTS.c.max_event_time >= start)
        .order_by(SEGMENTS.c.position)
    )
    return list(connection.execute(query).scalars())


def periods_of(connection: Connection, endpoint: str, asked: int, token: str) -> tuple[list[Period], str]:
    """Return a page of closed periods, newest first, and the token of the next."""
    bodies, following = _page(connection, _periods, endpoint, asked, token)
    return [Period.FromString(body) for body in bodies], following


def alarms_of(connection: Connection, endpoint: str, asked: int, token: str) -> tuple[list[Alarm], str]:
    """Return a page of alarms, newest first, and the token of the next."""
    bodies, following = _page(connection, _alarms, endpoint, asked, token)
    return [Alarm.FromString(body) for body in bodies], following


def _insert(connection: Connection, table: Table, event: Event, found: Period | Alarm) -> None:
    found.position = event.position
    body = found.SerializeToString(deterministic=True)
    connection.execute(insert(table).values(position=event.position, endpoint=found.endpoint, body=body))


def _page(connection: Connection, table: Table, endpoint: str, asked: int, token: str) -> tuple[list[bytes], str]:
    query = select(table.c.position, table.c.body).where(table.c.position < last_position(token))
    if endpoint:
        query = query.where(table.c.endpoint == endpoint)
    rows = connection.execute(query.order_by(table.c.position.desc()).limit(page_size(asked) + 1)).all()
    found = rows[: page_size(asked)]
    return [row.body for row in found], page_token(str(found[-1].position)) if len(rows) > len(found) else ""


def _numbers(values: pa.ChunkedArray) -> list[float | None] | None:
    kind = values.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        numbers: list[float | None] = [
            None if value is None or value != value else float(value) for value in values.to_pylist()
        ]
        return numbers
    return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
