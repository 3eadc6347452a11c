"""Between errors and gRPC statuses, both ways. The only place that knows which category is which code."""

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY  # type: ignore[import-untyped]

from chassis.context import caller
from chassis.errors import (
    AlreadyExists,
    Conflict,
    DeadlinePassed,
    FieldViolation,
    InvalidArgument,
    LinealError,
    NotFound,
    Overloaded,
    RuleViolated,
    Unavailable,
)

DOMAIN = "lineal"
# The first match counts, so a subclass comes before its base.
_CODES: tuple[tuple[type[LinealError], grpc.StatusCode], ...] = (
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (RuleViolated, grpc.StatusCode.FAILED_PRECONDITION),
    (Conflict, grpc.StatusCode.ABORTED),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlinePassed, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the status code that an error is shown as."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def status_of(error: BaseException) -> Status:
    """Return the status that an error is shown as.

    What no category covers shows a fixed text and the correlation id, never the exception.
    """
    code = code_of(error)
    number = code.value[0]
    correlation_id = caller().correlation_id
    if not isinstance(error, LinealError) or code is grpc.StatusCode.INTERNAL:
        text = f"internal error; the service's log has it under correlation id {correlation_id}"
        return Status(code=number, message=text, details=[_info("INTERNAL", correlation_id)])
    details = [_info(error.reason, correlation_id)]
    if isinstance(error, InvalidArgument) and error.violations:
        fields = [BadRequest.FieldViolation(field=v.field, description=v.description) for v in error.violations]
        details.append(_packed(BadRequest(field_violations=fields)))
    if isinstance(error, Overloaded):
        wait = Duration()
        wait.FromMilliseconds(int(error.retry_after * 1000))
        details.append(_packed(RetryInfo(retry_delay=wait)))
    return Status(code=number, message=error.message, details=details)


def _info(reason: str, correlation_id: str) -> AnyMessage:
    return _packed(ErrorInfo(reason=reason, domain=DOMAIN, metadata={"correlation_id": correlation_id}))


def _packed(message: ErrorInfo | BadRequest | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def error_of(error: grpc.aio.AioRpcError) -> LinealError | None:
    """Return the error that another service meant, None when it is none of the categories."""
    message = error.details() or ""
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidArgument(message, _violations(error))
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(message)
        case grpc.StatusCode.ALREADY_EXISTS:
            return AlreadyExists(message)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return RuleViolated(message)
        case grpc.StatusCode.ABORTED:
            return Conflict(message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(message)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unavailable(message)
    return None


def _violations(error: grpc.aio.AioRpcError) -> list[FieldViolation]:
    trailing = error.trailing_metadata()
    for key, value in trailing or ():
        if key == GRPC_DETAILS_METADATA_KEY and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                bad = BadRequest()
                if detail.Is(BadRequest.DESCRIPTOR) and detail.Unpack(bad):
                    return [FieldViolation(v.field, v.description) for v in bad.field_violations]
    return []
