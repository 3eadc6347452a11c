"""The trainer's RPCs: request in, application call, response out."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import FieldViolation, InvalidArgument
from chassis.past import AsOf
from lineal.api.trainer.v1 import trainer_service_pb2 as api
from lineal.api.trainer.v1.trainer_service_pb2_grpc import TrainerServiceServicer
from services.trainer.application import Trainer

Context = Any


class HeaderMissing(InvalidArgument):
    """An upload does not begin with its header."""


class TrainerServicer(TrainerServiceServicer):
    """`lineal.api.trainer.v1.TrainerService`."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    async def StartRun(self, request: api.StartRunRequest, context: Context) -> api.StartRunResponse:
        run_id, position = await self._trainer.start_run(
            request_id=request.request_id,
            model=request.model,
            training_set_digest=request.training_set_digest,
            parameters=request.parameters,
        )
        return api.StartRunResponse(run_id=run_id, position=position)

    async def WatchRun(self, request: api.WatchRunRequest, context: Context) -> AsyncIterator[api.WatchRunResponse]:
        async for response in self._trainer.watch_run(request.run_id):
            yield response

    async def GetRun(self, request: api.GetRunRequest, context: Context) -> api.GetRunResponse:
        return api.GetRunResponse(run=await self._trainer.run(request.run_id))

    async def ListRuns(self, request: api.ListRunsRequest, context: Context) -> api.ListRunsResponse:
        runs, token = await self._trainer.runs_page(
            request.model, request.page_size, request.page_token, AsOf.of(request)
        )
        return api.ListRunsResponse(runs=runs, next_page_token=token)

    async def EvaluateBundles(
        self, request: api.EvaluateBundlesRequest, context: Context
    ) -> api.EvaluateBundlesResponse:
        evaluation, digest, position = await self._trainer.evaluate(
            request_id=request.request_id,
            training_set_digest=request.training_set_digest,
            bundle_digests=list(request.bundle_digests),
            start_micros=_micros(request.start_time) if request.HasField("start_time") else None,
            end_micros=_micros(request.end_time) if request.HasField("end_time") else None,
        )
        return api.EvaluateBundlesResponse(evaluation=evaluation, evaluation_digest=digest, position=position)

    async def ImportModel(
        self, request_iterator: AsyncIterator[api.ImportModelRequest], context: Context
    ) -> api.ImportModelResponse:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            raise HeaderMissing(
                "the upload does not begin with its header", [FieldViolation("header", "send it as the first message")]
            )

        async def chunks() -> AsyncIterator[bytes]:
            async for message in request_iterator:
                yield message.chunk

        digest, position = await self._trainer.import_model(first.header, chunks())
        return api.ImportModelResponse(bundle_digest=digest, position=position)

    async def GetCard(self, request: api.GetCardRequest, context: Context) -> api.GetCardResponse:
        return api.GetCardResponse(markdown=self._trainer.card(request.bundle_digest))


def _micros(moment: Timestamp) -> int:
    return moment.ToMicroseconds()
