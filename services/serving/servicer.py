"""The RPCs of ServingService: request in, application call, response out."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from opentelemetry.trace import Tracer

from chassis.clock import Clock
from chassis.errors import LinealError
from chassis.ids import new_request_id
from chassis.statuses import status_of
from lineal.api.serving.v1 import serving_service_pb2 as api
from lineal.api.serving.v1.serving_service_pb2_grpc import ServingServiceServicer
from services.serving.arms import ArmTable
from services.serving.explaining import Explainer
from services.serving.input_limits import Columned, InputLimits
from services.serving.predictor import Predictor
from services.serving.recorder import Recorder
from services.serving.request import Request, by_name, decoded, make
from services.serving.streaming import in_order
from tabular.bundle import Bundle, ModelColumn

_logger = logging.getLogger(__name__)
Context = Any
_VALUE_TYPES = {
    "numeric": api.ValueType.VALUE_TYPE_NUMBER,
    "categorical": api.ValueType.VALUE_TYPE_TEXT,
    "time": api.ValueType.VALUE_TYPE_TIME,
}


class ServingServicer(ServingServiceServicer):
    """`lineal.api.serving.v1.ServingService`."""

    def __init__(
        self,
        predictor: Predictor,
        explainer: Explainer,
        arms: ArmTable,
        recorder: Recorder,
        replica_id: str,
        limits: InputLimits,
        clock: Clock,
        tracer: Tracer,
        draining: asyncio.Event,
    ) -> None:
        self._predictor = predictor
        self._explainer = explainer
        self._arms = arms
        self._recorder = recorder
        self._replica_id = replica_id
        self._limits = limits
        self._clock = clock
        self._tracer = tracer
        self._draining = draining

    async def Predict(self, request: api.PredictRequest, context: Context) -> api.PredictResponse:
        return (await self._predictor.predict(self._made(request, request_id=request.request_id))).response

    async def StreamPredictions(
        self, request_iterator: AsyncIterator[api.StreamPredictionsRequest], context: Context
    ) -> AsyncIterator[api.StreamPredictionsResponse]:
        async with aclosing(in_order(request_iterator, self._answer, self._draining)) as answers:
            async for answer in answers:
                yield answer

    async def Explain(self, request: api.ExplainRequest, context: Context) -> api.ExplainResponse:
        return await self._explainer.explain(self._made(request, bundle_digest=request.bundle_digest))

    async def FindCounterfactuals(
        self, request: api.FindCounterfactualsRequest, context: Context
    ) -> api.FindCounterfactualsResponse:
        made = self._made(request, bundle_digest=request.bundle_digest)
        return await self._explainer.counterfactuals(made, request.most)

    async def DescribeEndpoint(
        self, request: api.DescribeEndpointRequest, context: Context
    ) -> api.DescribeEndpointResponse:
        loaded = self._arms.get(request.endpoint)
        bundle = loaded.champion_bundle
        return api.DescribeEndpointResponse(
            model=bundle.model,
            generation=loaded.generation,
            champion_digest=loaded.champion.bundle_digest if loaded.champion else "",
            columns=[_described(column) for column in required(bundle)],
            looked_up_columns=[_described(column) for column in bundle.columns if column.source == "view"],
            arms=loaded.arms,
            label_key=bundle.label_key,
            replica_id=self._replica_id,
        )

    async def GetCounters(self, request: api.GetCountersRequest, context: Context) -> api.GetCountersResponse:
        counted = {counters.endpoint: counters for counters in self._recorder.counters()}
        for name, refused in self._arms.refused.items():
            counters = counted.setdefault(name, api.EndpointCounters(endpoint=name))
            counters.refused_generation, counters.refusal = refused.generation, refused.reason
        for name, count in self._arms.refusals.items():
            counted.setdefault(name, api.EndpointCounters(endpoint=name)).refused_generations = count
        endpoints = [counters for _, counters in sorted(counted.items())]
        return api.GetCountersResponse(endpoints=endpoints, replica_id=self._replica_id)

    async def _answer(self, streamed: api.StreamPredictionsRequest) -> api.StreamPredictionsResponse:
        request = streamed.request
        request_id = request.request_id or new_request_id()
        answer = api.StreamPredictionsResponse(request_id=request_id)
        # Of its own, or what is told of one request would stand in the stream's span over that of the one before.
        with self._tracer.start_as_current_span("prediction"):
            try:
                made = self._made(request, request_id=request_id)
                answer.response.CopyFrom((await self._predictor.predict(made)).response)
            except LinealError as error:
                answer.error = status_of(error).SerializeToString()
            except Exception as error:
                _logger.exception("a request of a stream failed")
                answer.error = status_of(error).SerializeToString()
        return answer

    def _made(
        self,
        request: Columned,
        *,
        request_id: str = "",
        bundle_digest: str = "",
    ) -> Request:
        self._limits.check(request)
        sent = by_name(request.columns)
        return make(
            endpoint=request.endpoint,
            request_id=request_id,
            routing_key=request.routing_key,
            columns=decoded(sent),
            event_time_micros=list(request.event_time_micros),
            now=self._clock.now(),
            min_position=request.min_position,
            bundle_digest=bundle_digest,
            sent=sent,
        )


def required(bundle: Bundle) -> list[ModelColumn]:
    """Return the columns that a request must bring: request features, what transforms take, then other entity keys."""
    brought = [column for column in (*bundle.columns, *bundle.inputs) if column.source == "request"]
    columns = list({column.name: column for column in brought}.values())
    names = {column.name for column in columns}
    looks_up = any(column.source == "view" for column in (*bundle.columns, *bundle.inputs))
    keys = [ModelColumn(name, "categorical") for name in bundle.entity_columns if looks_up and name not in names]
    return columns + keys


def _described(column: ModelColumn) -> api.ColumnDescription:
    return api.ColumnDescription(name=column.name, type=_VALUE_TYPES[column.type])
