"""Read tables of accepted batches: where the rows lie that features are explained from."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message
from sqlalchemy import BigInteger, Column, Connection, Index, MetaData, String, Table, insert, select

from chassis.events import Event
from lineal.api.ingest.v1.events_pb2 import BatchAccepted

_metadata = MetaData()
_batches = Table(
    "batches",
    _metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("dataset", String, nullable=False),
    Column("batch_id", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("min_event", BigInteger, nullable=True),
    Column("max_event", BigInteger, nullable=True),
    Index("batches_of_dataset", "dataset", "position"),
)


@dataclass(frozen=True)
class Batch:
    """A batch with rows; its span of event time in microseconds is None where the dataset has no event time."""

    position: int
    batch_id: str
    digest: str
    min_event: int | None
    max_event: int | None


class BatchTables:
    """The projection behind explanations."""

    name = "batches"
    version = 1
    metadata = _metadata
    types: Sequence[type[Message]] = (BatchAccepted,)

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event."""
        batch = event.message
        if not isinstance(batch, BatchAccepted) or not batch.accepted_digest:
            return
        timed = batch.HasField("min_event_time")
        connection.execute(
            insert(_batches).values(
                position=event.position,
                dataset=batch.dataset,
                batch_id=batch.batch_id,
                digest=batch.accepted_digest,
                min_event=batch.min_event_time.ToMicroseconds() if timed else None,
                max_event=batch.max_event_time.ToMicroseconds() if timed else None,
            )
        )


def batches(connection: Connection, dataset: str, until: int) -> list[Batch]:
    """Return the batches of a dataset at or before a position, oldest first."""
    columns = [_batches.c[name] for name in ("position", "batch_id", "digest", "min_event", "max_event")]
    query = select(*columns).where(_batches.c.dataset == dataset, _batches.c.position <= until)
    return [Batch(*row) for row in connection.execute(query.order_by(_batches.c.position))]
