"""Predictions as frames: waiting and sealed ones together, with outcomes and mirrored scores joined."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Select, select

from chassis.projection import ProjectionRunner
from lineal.api.features.v1.feature_set_pb2 import Label
from services.monitor import labels
from services.monitor.projections import OUTCOMES, SEALED
from services.monitor.tables import CHUNK, PredictionTables
from services.monitor.unsealed import TABLES, UnsealedRecords

_COLUMNS = (
    "prediction_id",
    "event_time",
    "generation",
    "arm",
    "bundle_digest",
    "unit",
    "score",
    "label_key",
    "trace_id",
    "latency",
    "fallback",
    "segment",
)
_MIRRORED = ("prediction_id", "bundle_digest", "arm", "score", "failure", "latency")


class Frames:
    """Reads frames of predictions."""

    def __init__(self, unsealed: UnsealedRecords, sealed: ProjectionRunner, outcomes: ProjectionRunner) -> None:
        self._unsealed = unsealed
        self._sealed = sealed
        self._outcomes = outcomes

    async def predictions(
        self,
        endpoint: str,
        *,
        start: int | None = None,
        end: int | None = None,
        from_generation: int = 0,
        records: bool = False,
        newest: int | None = None,
    ) -> pd.DataFrame:
        """Return predictions with event times in [start, end) microseconds, by event time and id.

        `records` adds the serialised messages, `newest` takes that many with the latest event times. A record that is
        being sealed may be in both places; it counts once.
        """

        def query(tables: PredictionTables) -> Select[Any]:
            table = tables.predictions
            names = [*_COLUMNS, "record"] if records else list(_COLUMNS)
            wanted = select(*(table.c[name] for name in names)).where(table.c.endpoint == endpoint)
            if start is not None:
                wanted = wanted.where(table.c.event_time >= start)
            if end is not None:
                wanted = wanted.where(table.c.event_time < end)
            if from_generation:
                wanted = wanted.where(table.c.generation >= from_generation)
            if newest is not None:
                wanted = wanted.order_by(table.c.event_time.desc(), table.c.prediction_id.desc()).limit(newest)
            return wanted

        frame = await self._both(query)
        frame = frame.sort_values(["event_time", "prediction_id"], kind="stable", ignore_index=True)
        return frame if newest is None else frame.tail(newest)

    async def mirrored(self, endpoint: str, bundle_digests: Sequence[str]) -> pd.DataFrame:
        """Return the scores of these bundles for predictions that others answered."""

        def query(tables: PredictionTables) -> Select[Any]:
            table = tables.mirrored
            return select(*(table.c[name] for name in _MIRRORED)).where(
                table.c.endpoint == endpoint, table.c.bundle_digest.in_(list(bundle_digests))
            )

        return await self._both(query, ["prediction_id", "bundle_digest"])

    async def with_outcomes(self, frame: pd.DataFrame, label: Label | None, min_position: int = 0) -> pd.DataFrame:
        """Add `outcome` (NaN until it comes), `arrival` (log position that brought it) and `outcome_batch`."""
        if label is None or not len(frame):
            return frame.assign(outcome=np.nan, arrival=np.nan, outcome_batch="")
        keys = frame["label_key"].tolist()
        name = labels.label_name(label)

        def read(connection: Connection) -> list[Any]:
            found: list[Any] = []
            for first in range(0, len(keys), CHUNK):
                query = select(
                    OUTCOMES.c.label_key, OUTCOMES.c.number, OUTCOMES.c.text, OUTCOMES.c.batch, OUTCOMES.c.position
                ).where(OUTCOMES.c.label == name, OUTCOMES.c.label_key.in_(keys[first : first + CHUNK]))
                found += connection.execute(query).all()
            return found

        rows = await self._outcomes.query(read, min_position)
        known = pd.DataFrame(rows, columns=["label_key", "number", "text", "outcome_batch", "arrival"])
        known = known.drop_duplicates("label_key")
        joined = frame.merge(known, how="left", on="label_key")
        joined["outcome_batch"] = joined["outcome_batch"].fillna("").astype(str)
        joined["arrival"] = joined["arrival"].astype(float)
        joined["outcome"] = labels.outcomes(label, joined)
        return joined.drop(columns=["number", "text"])

    async def _both(self, query: Any, key: Sequence[str] = ("prediction_id",)) -> pd.DataFrame:
        # Waiting ones first: a record that is sealed in between is then found among the sealed.
        waiting = await asyncio.to_thread(self._unsealed.read, lambda c: _frame(c, query(TABLES)))
        sealed = await self._sealed.query(lambda connection: _frame(connection, query(SEALED)))
        parts = [part for part in (sealed, waiting) if len(part)]
        if not parts:
            return sealed
        return pd.concat(parts, ignore_index=True).drop_duplicates(list(key), ignore_index=True)


def _frame(connection: Connection, query: Select[Any]) -> pd.DataFrame:
    result = connection.execute(query)
    return pd.DataFrame(result.all(), columns=list(result.keys()))
