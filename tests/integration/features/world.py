"""Trips and their ends, made up at random, delivered late and out of order."""

import hashlib
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from google.protobuf.message import Message

from chassis.ids import new_request_id
from lineal.api.features.v1 import features_service_pb2 as api
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from tabular import columns
from tabular.schema import arrow_schema
from tests.integration.running import Suite
from tests.unit.tabular.declarations import ends, trips

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class World:
    """The services, and what tests do with them again and again."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.ingest = suite.stub("ingest")
        self.features = suite.stub("features")
        self.built = 0

    async def declare(self, *declarations: Message) -> int:
        """Declare, and wait until features knows it; return the position of the last."""
        position = 0
        for declared in declarations:
            request_id = new_request_id()
            match declared:
                case Dataset():
                    request = ingest_api.RegisterDatasetRequest(request_id=request_id, dataset=declared)
                    position = (await self.ingest.RegisterDataset(request)).position
                case FeatureView():
                    view = api.RegisterFeatureViewRequest(request_id=request_id, feature_view=declared)
                    position = (await self.features.RegisterFeatureView(view)).position
                case FeatureSet():
                    feature_set = api.RegisterFeatureSetRequest(request_id=request_id, feature_set=declared)
                    position = (await self.features.RegisterFeatureSet(feature_set)).position
        await self.features.ListFeatureSets(api.ListFeatureSetsRequest(min_position=position))
        return position

    async def send(
        self, dataset: Dataset, rows: Sequence[dict[str, Any]], batch_rows: int = 20, prefix: str = ""
    ) -> int:
        """Ingest rows in batches, in the order given; return the position of the last.

        The same batch of the same prefix is the same batch, sent again.
        """
        requests = []
        for start in range(0, len(rows), batch_rows):
            table = pa.Table.from_pylist(list(rows[start : start + batch_rows]), schema=arrow_schema(dataset))
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            data = sink.getvalue().to_pybytes()
            name = prefix + hashlib.sha256(f"{rows[start]}".encode()).hexdigest()
            requests.append(ingest_api.IngestBatchesRequest(dataset=dataset.name, batch_id=name, arrow=data))
        return max([answer.position async for answer in self.ingest.IngestBatches(iter(requests))], default=0)

    async def snapshots(self, *names: str) -> dict[str, str]:
        return {
            name: (
                await self.ingest.CreateSnapshot(
                    ingest_api.CreateSnapshotRequest(request_id=new_request_id(), dataset=name)
                )
            ).snapshot.digest
            for name in names
        }

    async def build(
        self, name: str, snapshots: dict[str, str], **times: datetime
    ) -> list[api.BuildTrainingSetResponse]:
        request = api.BuildTrainingSetRequest(
            request_id=new_request_id(), feature_set=name, snapshots=snapshots, min_position=self.built
        )
        for field, time in times.items():
            getattr(request, field).FromDatetime(time)
        responses = [response async for response in self.features.BuildTrainingSet(request)]
        # What is built next knows of it.
        self.built = responses[-1].training_set.position
        return responses

    async def read(self, digest: str) -> pd.DataFrame:
        request = api.ReadTrainingSetRequest(digest=digest)
        pieces = [piece.arrow async for piece in self.features.ReadTrainingSet(request)]
        frame: pd.DataFrame = pa.ipc.open_stream(b"".join(pieces)).read_all().to_pandas()
        return frame

    async def online(
        self, name: str, entities: dict[str, list[Any]], cutoffs: Sequence[datetime], min_position: int = 0
    ) -> api.GetOnlineFeaturesResponse:
        request = api.GetOnlineFeaturesRequest(feature_set=name, min_position=min_position)
        request.entities.extend(columns.from_arrow(key, pa.array(values)) for key, values in entities.items())
        request.cutoff_micros.extend(round(cutoff.timestamp() * 1e6) for cutoff in cutoffs)
        response: api.GetOnlineFeaturesResponse = await self.features.GetOnlineFeatures(request)
        return response


def random_trips(seed: int, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make trips and their ends; ends are shuffled, some far too late, some with nulls."""
    rng = random.Random(seed)
    started, ended = [], []
    for n in range(count):
        driver = rng.choice(["ann", "bob", "cem", None])
        start = rng.randrange(0, 600)
        landed = start + rng.randrange(5, 60)
        told = landed + rng.choice([0, 0, 1, 7, 40, 90, 120, 300])
        started.append(
            {"trip": f"t{n}", "driver": driver, "km": rng.random() * 50, "start": at(start), "told": at(start)}
        )
        ended.append(
            {
                "trip": f"t{n}",
                "driver": driver,
                "delay": rng.choice([None, rng.gauss(10, 20), rng.gauss(10, 20)]),
                "weather": rng.choice(["rain", "sun", None]),
                "landed": at(landed),
                "told": at(told),
            }
        )
    rng.shuffle(ended)
    return started, ended


def corrections(seed: int, rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Correct rows, some twice: other values, other drivers, moved in time, told earlier; some are only repeated."""
    rng = random.Random(seed)
    changed = []
    for row in rng.choices(rows, k=count):
        kind = rng.choice(["value", "driver", "moved", "earlier", "repeated"])
        told = row["told"] + timedelta(seconds=rng.randrange(0, 120))
        if kind == "repeated":
            changed.append(dict(row))
        elif kind == "driver":
            changed.append({**row, "driver": rng.choice(["ann", "bob", "cem", None]), "told": told})
        elif kind == "moved":
            changed.append({**row, "landed": row["landed"] + timedelta(seconds=rng.randrange(-60, 60)), "told": told})
        else:
            told = row["told"] - timedelta(seconds=20) if kind == "earlier" else told
            changed.append({**row, "delay": rng.gauss(10, 20), "told": told})
    return changed


def values(column: Any) -> list[Any]:
    """Return a column's values with None for null."""
    return [None if isinstance(v, float) and np.isnan(v) else v for v in columns.to_numpy(column).tolist()]


__all__ = ["World", "at", "corrections", "ends", "random_trips", "trips", "values"]
