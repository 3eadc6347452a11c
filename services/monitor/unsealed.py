"""Records that wait to be sealed: the only data of Lineal that neither the log nor an artifact has yet."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection, MetaData, delete, func, select

from chassis.databases import Database
from lineal.api.monitor.v1.prediction_pb2 import MirroredScore, PredictionRecord
from services.monitor.segments import Segment
from services.monitor.tables import CHUNK, define, existing, insert_new, mirrored_row, prediction_row

T = TypeVar("T")
_metadata = MetaData()
TABLES = define(_metadata)


class UnsealedRecords:
    """A table of records; durable when `add` returns. Blocking: call it in a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.writer.begin() as connection:
            _metadata.create_all(connection)

    def add(
        self,
        predictions: Sequence[PredictionRecord],
        mirrored: Sequence[MirroredScore],
        endpoints: Mapping[str, str],
    ) -> int:
        """Add records that are new here; return how many predictions were.

        `endpoints` has the endpoint of each mirrored score's prediction; a score of an unknown one is left out.
        """
        rows = [
            mirrored_row(score, endpoints[score.prediction_id])
            for score in mirrored
            if score.prediction_id in endpoints
        ]
        with self._database.writer.begin() as connection:
            added = insert_new(connection, TABLES.predictions, [prediction_row(record, "") for record in predictions])
            insert_new(connection, TABLES.mirrored, rows)
        return added

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Return what `fn` reads in one transaction."""
        with self._database.reader.begin() as connection:
            return fn(connection)

    def counts(self) -> dict[str, int]:
        """Return the predictions that wait, by endpoint."""
        query = select(TABLES.predictions.c.endpoint, func.count()).group_by(TABLES.predictions.c.endpoint)
        return self.read(lambda connection: {row[0]: row[1] for row in connection.execute(query)})

    def segment(self, endpoint: str, most: int) -> tuple[Segment, list[str]]:
        """Return up to so many waiting records of an endpoint as a segment, oldest event first, and their ids.

        A mirrored score whose prediction is sealed already goes along by itself.
        """

        def read(connection: Connection) -> tuple[Segment, list[str]]:
            predictions = connection.execute(
                select(TABLES.predictions.c.prediction_id, TABLES.predictions.c.record)
                .where(TABLES.predictions.c.endpoint == endpoint)
                .order_by(TABLES.predictions.c.event_time, TABLES.predictions.c.prediction_id)
                .limit(most)
            ).all()
            mirrored = connection.execute(
                select(TABLES.mirrored.c.prediction_id, TABLES.mirrored.c.record)
                .where(TABLES.mirrored.c.endpoint == endpoint)
                .order_by(TABLES.mirrored.c.prediction_id, TABLES.mirrored.c.bundle_digest)
            ).all()
            ids = [row.prediction_id for row in predictions]
            return Segment([row.record for row in predictions], [row.record for row in mirrored]), ids

        return self.read(read)

    def remove(self, segment: Segment) -> None:
        """Delete what a segment holds, once it is in the sealed tables."""
        predictions, mirrored = segment.decoded()
        with self._database.writer.begin() as connection:
            _delete(connection, [record.prediction_id for record in predictions])
            for score in mirrored:
                connection.execute(
                    delete(TABLES.mirrored).where(
                        TABLES.mirrored.c.prediction_id == score.prediction_id,
                        TABLES.mirrored.c.bundle_digest == score.bundle_digest,
                    )
                )

    def ids(self) -> list[str]:
        """Return the ids of all predictions that wait."""
        return self.read(
            lambda connection: list(connection.execute(select(TABLES.predictions.c.prediction_id)).scalars())
        )

    def forget(self, prediction_ids: Sequence[str]) -> None:
        """Delete predictions that are sealed already; a crash may leave them here."""
        with self._database.writer.begin() as connection:
            _delete(connection, prediction_ids)

    def has(self, prediction_ids: Sequence[str]) -> set[str]:
        """Return which of these wait here."""
        return {
            key[0] for key in self.read(lambda connection: existing(connection, TABLES.predictions, prediction_ids))
        }


def _delete(connection: Connection, prediction_ids: Sequence[str]) -> None:
    for start in range(0, len(prediction_ids), CHUNK):
        chunk = prediction_ids[start : start + CHUNK]
        connection.execute(delete(TABLES.predictions).where(TABLES.predictions.c.prediction_id.in_(chunk)))
