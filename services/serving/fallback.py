"""What is answered and recorded when no model can answer: the fallback that an endpoint declares."""

from datetime import datetime

import grpc
import grpc.aio
from opentelemetry import trace

from chassis.context import time_left
from chassis.errors import LinealError
from lineal.api.monitor.v1.monitor_service_pb2 import RecordPredictionsRequest
from lineal.api.registry.v1.endpoint_pb2 import Endpoint, Fallback
from lineal.api.serving.v1.serving_service_pb2 import PredictResponse
from services.serving.answering import common_of, messages_of
from services.serving.arms import EndpointSuspended, NoChampion
from services.serving.loader import BundleUnloadable
from services.serving.request import Request
from tabular.bundle import Bundle

ARM = "fallback"


def cause_of(error: Exception, declared: Fallback) -> str:
    """Return why a declared fallback is to answer after an error; empty where the error is to be told."""
    if time_left() == 0.0:
        # Nobody waits any more, and what was cut off by it did not fail.
        return ""
    match error:
        case EndpointSuspended():
            return "suspended" if declared.when_suspended else ""
        case NoChampion() | BundleUnloadable():
            return "no_bundle"
        case grpc.aio.AioRpcError():
            # The only service that is asked on the way to a score. What it finds wrong with a request is the caller's.
            return "" if error.code() is grpc.StatusCode.INVALID_ARGUMENT else "features"
        case LinealError():
            return ""
    return "scoring"


def answer_of(endpoint: Endpoint, generation: int, request: Request, cause: str) -> PredictResponse:
    """Return the declared answer for every row of a request."""
    declared = endpoint.fallback
    context = trace.get_current_span().get_span_context()
    return PredictResponse(
        request_id=request.request_id,
        prediction_ids=request.prediction_ids(),
        scores=[declared.score] * request.rows,
        decisions=[declared.decision] * request.rows if declared.HasField("decision") else (),
        class_scores=list(declared.class_scores) * request.rows,
        arm=ARM,
        generation=generation,
        trace_id=f"{context.trace_id:032x}" if context.is_valid else "",
        fallback_cause=cause,
        fallback_reason=declared.reason,
    )


def records_of(
    request: Request, answer: PredictResponse, bundle: Bundle | None, now: datetime, latency: int
) -> list[RecordPredictionsRequest]:
    """Return the record of a request as it goes to monitor; `latency` is in microseconds.

    `bundle` is the champion's, whose keys name the rows, so that outcomes find them; None where there is none.
    """
    return messages_of(request, answer, common_of(request, answer, now, latency), bundle)
