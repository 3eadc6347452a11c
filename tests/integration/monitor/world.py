"""Trips whose ends come late, and records of predictions that looked them up."""

from datetime import datetime
from typing import Any

import numpy as np

from chassis.artifacts import canonical_json
from chassis.ids import new_request_id
from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.features.v1.feature_set_pb2 import ColumnSource, ColumnType
from lineal.api.monitor.v1 import monitor_service_pb2 as api
from lineal.api.monitor.v1.events_pb2 import AlarmRaised, ParityChecked
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.events_pb2 import EndpointRegistered
from tabular.bundle import Bundle, ModelColumn
from tests.integration.features.world import World, at, ends, random_trips, trips, values
from tests.unit.tabular.declarations import feature_set, view

ENDPOINT = "taxi"


class Taxi(World):
    """Trips whose ends come late, and the records of predictions that looked them up."""

    async def begin(self) -> None:
        await self.declare(trips(), ends(), view(), feature_set())
        self.log = self.suite.servers["ingest"].harness.log
        self.monitor = self.suite.stub("monitor")
        await self.declare_endpoint()
        found = await self.features.GetFeatureSet(features_api.GetFeatureSetRequest(name="late"))
        self.bundle = Bundle(
            "late",
            "binary",
            tuple(
                ModelColumn(
                    column.name,
                    "numeric" if column.type == ColumnType.COLUMN_TYPE_NUMERIC else "categorical",
                    "view" if column.source == ColumnSource.COLUMN_SOURCE_VIEW else "request",
                )
                for column in found.columns
            ),
            {},
            feature_set="late",
            feature_set_version=found.version,
            entity_columns=("driver",),
        )
        self.digest = self.suite.artifacts.put(canonical_json(self.bundle.to_json()))
        started, ended = random_trips(seed=5, count=80)
        await self.send(trips(), started)
        self.rows = [ended[:40], ended[40:]]

    async def declare_endpoint(self) -> None:
        """Tell the log of the endpoint, as registry does."""
        registered = EndpointRegistered(endpoint=Endpoint(name=ENDPOINT, model="late"))
        stream = f"endpoint/{ENDPOINT}"
        await self.log.append(stream, [registered], request_id=new_request_id(), expected_revision=None)

    async def serve(self, name: str, cutoff: datetime, position: int) -> list[PredictionRecord]:
        """Look up what serving would, and return what it would record."""
        drivers = ["ann", "bob", "cem"]
        answer = await self.online("late", {"driver": drivers}, [cutoff] * len(drivers), position)
        held = {column.name: values(column) for column in answer.columns} | {"km": [1.5] * len(drivers)}
        return [
            PredictionRecord(
                prediction_id=f"{name}/{row}",
                endpoint=ENDPOINT,
                arm="champion",
                bundle_digest=self.digest,
                event_time_micros=round(cutoff.timestamp() * 1e6),
                numeric_values=[np.nan if (v := held[name][row]) is None else v for name in self.bundle.numeric],
                categorical_values=[held[name][row] or "" for name in self.bundle.categorical],
                feature_position=answer.position,
                entities={"driver": driver},
            )
            for row, driver in enumerate(drivers)
        ]

    async def record(self, *records: PredictionRecord) -> None:
        await self.monitor.RecordPredictions(api.RecordPredictionsRequest(predictions=records))

    async def check(self, request_id: str = "", **fields: Any) -> api.CheckParityResponse:
        request = api.CheckParityRequest(request_id=request_id or new_request_id(), endpoint=ENDPOINT, **fields)
        response: api.CheckParityResponse = await self.monitor.CheckParity(request)
        return response

    async def told(self) -> list[type]:
        """Return which events of parity the log has of the endpoint."""
        events = await self.log.read_stream(f"monitor/{ENDPOINT}")
        return [type(event.message) for event in events if isinstance(event.message, ParityChecked | AlarmRaised)]


__all__ = ["ENDPOINT", "Taxi", "at", "ends"]
