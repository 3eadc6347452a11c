"""Monitor's RPCs: request in, application call, response out."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import FieldViolation, InvalidArgument
from chassis.past import AsOf
from lineal.api.monitor.v1 import contest_service_pb2 as contest_api
from lineal.api.monitor.v1 import monitor_service_pb2 as api
from lineal.api.monitor.v1.contest_service_pb2_grpc import ContestServiceServicer
from lineal.api.monitor.v1.monitor_service_pb2_grpc import MonitorServiceServicer
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from services.monitor.application import Monitor
from services.monitor.contests import Contests
from services.monitor.parity import Parity
from tabular.request_records import RowsUneven, expanded

Context = Any
_PIECE_BYTES = 1 << 20
_PIECE_RECORDS = 1_000


class RecordInvalid(InvalidArgument):
    """The record of a request does not make records of predictions."""


class MonitorServicer(MonitorServiceServicer):
    """`lineal.api.monitor.v1.MonitorService`."""

    def __init__(self, monitor: Monitor, parity: Parity) -> None:
        self._monitor = monitor
        self._parity = parity

    async def RecordPredictions(
        self, request: api.RecordPredictionsRequest, context: Context
    ) -> api.RecordPredictionsResponse:
        # In a thread, since a full batch is some ten thousand rows.
        predictions = await asyncio.to_thread(_predictions_of, request)
        recorded = await self._monitor.record(predictions, request.mirrored_scores)
        return api.RecordPredictionsResponse(recorded=recorded)

    async def GetPrediction(self, request: api.GetPredictionRequest, context: Context) -> api.GetPredictionResponse:
        found = await self._monitor.prediction(request.prediction_id)
        return api.GetPredictionResponse(
            prediction=found.record,
            numeric_columns=found.numeric_columns,
            categorical_columns=found.categorical_columns,
            outcome=found.outcome,
            outcome_batch=found.outcome_batch,
            segment_digest=found.segment,
            mirrored_scores=found.mirrored,
        )

    async def GetPredictionProof(
        self, request: api.GetPredictionProofRequest, context: Context
    ) -> api.GetPredictionProofResponse:
        found = await self._monitor.prove(request.prediction_id)
        return api.GetPredictionProofResponse(
            record=found.place.record,
            index=found.index,
            path=found.path,
            segment_digest=found.place.segment_digest,
            position=found.place.position,
            manifests=found.manifests,
        )

    async def ReadPredictions(
        self, request: api.ReadPredictionsRequest, context: Context
    ) -> AsyncIterator[api.ReadPredictionsResponse]:
        frame = await self._monitor.predictions(request.endpoint, *_range(request), min_position=request.min_position)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        index = table.column_names.index("event_time")
        instants = table["event_time"].cast(pa.int64()).cast(pa.timestamp("us", tz="UTC"))
        table = table.set_column(index, "event_time", instants)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = memoryview(sink.getvalue())
        for start in range(0, len(data), _PIECE_BYTES):
            yield api.ReadPredictionsResponse(arrow=bytes(data[start : start + _PIECE_BYTES]))

    async def ReadSegment(
        self, request: api.ReadSegmentRequest, context: Context
    ) -> AsyncIterator[api.ReadSegmentResponse]:
        records = await self._monitor.segment(
            request.segment_digest, set(request.bundle_digests), request.min_feature_position
        )
        for start in range(0, len(records), _PIECE_RECORDS):
            yield api.ReadSegmentResponse(predictions=records[start : start + _PIECE_RECORDS])

    async def ExaminePeriods(self, request: api.ExaminePeriodsRequest, context: Context) -> api.ExaminePeriodsResponse:
        periods, alarms, watermark, position = await self._monitor.examine(request.endpoint)
        response = api.ExaminePeriodsResponse(periods=periods, alarms=alarms, position=position)
        if watermark is not None:
            response.watermark_time.FromMicroseconds(watermark)
        return response

    async def CheckParity(self, request: api.CheckParityRequest, context: Context) -> api.CheckParityResponse:
        start, end = _range(request)
        found = await self._parity.check(
            request_id=request.request_id,
            endpoint=request.endpoint,
            start=start,
            end=end,
            predictions=request.predictions,
        )
        return api.CheckParityResponse(
            check=found.check, alarms=found.alarms, report=found.report, position=found.position
        )

    async def GetParityReport(
        self, request: api.GetParityReportRequest, context: Context
    ) -> api.GetParityReportResponse:
        return api.GetParityReportResponse(report=self._parity.report(request.report_digest))

    async def ListPeriods(self, request: api.ListPeriodsRequest, context: Context) -> api.ListPeriodsResponse:
        periods, token = await self._monitor.periods_page(request.endpoint, request.page_size, request.page_token)
        return api.ListPeriodsResponse(periods=periods, next_page_token=token)

    async def GetPeriodReport(
        self, request: api.GetPeriodReportRequest, context: Context
    ) -> api.GetPeriodReportResponse:
        return api.GetPeriodReportResponse(report=self._monitor.report(request.report_digest))

    async def ListAlarms(self, request: api.ListAlarmsRequest, context: Context) -> api.ListAlarmsResponse:
        alarms, token = await self._monitor.alarms_page(request.endpoint, request.page_size, request.page_token)
        return api.ListAlarmsResponse(alarms=alarms, next_page_token=token)

    async def GetPerformance(self, request: api.GetPerformanceRequest, context: Context) -> api.GetPerformanceResponse:
        arms = await self._monitor.performance(request.endpoint, *_range(request), min_position=request.min_position)
        return api.GetPerformanceResponse(arms=arms)

    async def JudgeRelease(self, request: api.JudgeReleaseRequest, context: Context) -> api.JudgeReleaseResponse:
        report, digest = await self._monitor.judge(request)
        return api.JudgeReleaseResponse(
            verdict=report.verdict, finding=report.finding, report=report, report_digest=digest
        )

    async def GetCounters(self, request: api.GetCountersRequest, context: Context) -> api.GetCountersResponse:
        return api.GetCountersResponse(endpoints=await self._monitor.counters(request.endpoint))


class ContestServicer(ContestServiceServicer):
    """`lineal.api.monitor.v1.ContestService`."""

    def __init__(self, contests: Contests) -> None:
        self._contests = contests

    async def ContestPrediction(
        self, request: contest_api.ContestPredictionRequest, context: Context
    ) -> contest_api.ContestPredictionResponse:
        contest, position = await self._contests.contest(
            request_id=request.request_id, prediction_id=request.prediction_id, reason=request.reason
        )
        return contest_api.ContestPredictionResponse(contest=contest, position=position)

    async def ResolveContest(
        self, request: contest_api.ResolveContestRequest, context: Context
    ) -> contest_api.ResolveContestResponse:
        contest, position = await self._contests.resolve(
            request_id=request.request_id,
            contest_id=request.contest_id,
            resolution=request.resolution,
            reason=request.reason,
        )
        return contest_api.ResolveContestResponse(contest=contest, position=position)

    async def GetContest(
        self, request: contest_api.GetContestRequest, context: Context
    ) -> contest_api.GetContestResponse:
        contest, evidence = await self._contests.get(request.contest_id, request.min_position, AsOf.of(request))
        return contest_api.GetContestResponse(contest=contest, evidence=evidence)

    async def ListContests(
        self, request: contest_api.ListContestsRequest, context: Context
    ) -> contest_api.ListContestsResponse:
        contests, token = await self._contests.page(
            request.endpoint,
            request.state,
            request.page_size,
            request.page_token,
            request.min_position,
            AsOf.of(request),
        )
        return contest_api.ListContestsResponse(contests=contests, next_page_token=token)


def _predictions_of(request: api.RecordPredictionsRequest) -> list[PredictionRecord]:
    predictions = list(request.predictions)
    for number, whole in enumerate(request.request_records):
        try:
            predictions += expanded(whole)
        except RowsUneven as error:
            field = f"request_records[{number}]"
            raise RecordInvalid(f"{field}: {error}", [FieldViolation(field, str(error))]) from error
    return predictions


def _range(
    request: api.ReadPredictionsRequest | api.GetPerformanceRequest | api.CheckParityRequest,
) -> tuple[int | None, int | None]:
    start: Timestamp | None = request.start_time if request.HasField("start_time") else None
    end: Timestamp | None = request.end_time if request.HasField("end_time") else None
    return start.ToMicroseconds() if start else None, end.ToMicroseconds() if end else None
