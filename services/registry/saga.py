"""How a saga begins that somebody asks for."""

from chassis.ids import check_request_id
from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaKind
from lineal.api.registry.v1.registry_service_pb2 import RequestRetrainRequest


def asked_for(kind: "SagaKind.ValueType", request_id: str, endpoint: str, reason: str) -> Saga:
    """Return a saga, whose id is made from the request's: a repeated request names the same saga."""
    name = SagaKind.Name(kind).removeprefix("SAGA_KIND_").lower()
    return Saga(
        saga_id=f"{name}-{endpoint}-{check_request_id(request_id)[:8]}", endpoint=endpoint, kind=kind, reason=reason
    )


def retrain(request: RequestRetrainRequest) -> Saga:
    """Return the saga of a retrain."""
    saga = asked_for(SagaKind.SAGA_KIND_RETRAIN, request.request_id, request.endpoint, request.reason)
    saga.alarm_id = request.alarm_id
    saga.exclude_columns.extend(request.exclude_columns)
    saga.feature_set = request.feature_set
    for name in ("training_start_time", "training_end_time"):
        if request.HasField(name):
            getattr(saga, name).CopyFrom(getattr(request, name))
    return saga
