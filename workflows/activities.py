"""What activities have in common: on whose behalf they call, how failures are meant, and their heartbeat."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from chassis.context import Caller, acting_as
from chassis.errors import AlreadyExists, InvalidArgument, LinealError, NotFound, RuleViolated
from chassis.statuses import error_of
from chassis.telemetry import Telemetry
from workflows.messages import Origin

_PROPAGATOR = TraceContextTextMapPropagator()
# A refusal: the same command would be refused again.
_FINAL = (InvalidArgument, NotFound, AlreadyExists, RuleViolated)
_HEARTBEAT_SECONDS = 2.0

# Seconds that the RPC of a command may take; the activity around it has longer.
COMMAND_SECONDS = 6.0


class Heart:
    """Heartbeats of an activity; `say` changes what they tell, which Temporal's UI shows."""

    def __init__(self) -> None:
        self._saying = "started"

    def say(self, what: str) -> None:
        """Tell from now on what is being done."""
        self._saying = what
        activity.heartbeat(what)

    @classmethod
    @contextmanager
    def beating(cls) -> Iterator["Heart"]:
        """Heartbeat within a block, also while an RPC takes long."""
        heart = cls()
        task = asyncio.get_running_loop().create_task(heart._beat())
        try:
            yield heart
        finally:
            task.cancel()

    async def _beat(self) -> None:
        while True:
            activity.heartbeat(self._saying)
            await asyncio.sleep(_HEARTBEAT_SECONDS)


class Boundary(Interceptor):
    """Run each activity as the saga that it belongs to, in a span, and say which failures are final."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap the activities of a worker."""
        return _Inbound(next, self._telemetry)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, telemetry: Telemetry) -> None:
        super().__init__(following)
        self._telemetry = telemetry

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        """Run one activity."""
        info = activity.info()
        argument = input.args[0]
        origin: Origin = argument if isinstance(argument, Origin) else argument.origin
        who = Caller(actor=f"saga:{info.workflow_id}", correlation_id=origin.saga_id, causation_id=origin.causation_id)
        attributes: dict[str, str | int] = {
            "temporal.workflow.id": info.workflow_id or "",
            "temporal.workflow.run_id": info.workflow_run_id or "",
            "temporal.activity.id": info.activity_id,
            "temporal.activity.attempt": info.attempt,
            "lineal.correlation_id": origin.saga_id,
        }
        parent = _PROPAGATOR.extract({"traceparent": origin.traceparent} if origin.traceparent else {})
        span = self._telemetry.tracer.start_span(info.activity_type, parent, SpanKind.INTERNAL, attributes)
        with acting_as(who), trace.use_span(span, end_on_exit=True):
            try:
                return await super().execute_activity(input)
            except grpc.aio.AioRpcError as error:
                raise _meant(error_of(error), f"{error.code().name}: {error.details()}") from error
            except LinealError as error:
                raise _meant(error, error.message) from error


def _meant(error: LinealError | None, text: str) -> ApplicationError:
    if error is None:
        return ApplicationError(text, type="Unexpected")
    return ApplicationError(error.message or text, type=error.reason, non_retryable=isinstance(error, _FINAL))


def moment(text: str) -> Timestamp | None:
    """Return a time from its RFC 3339 text, None from an empty one."""
    if not text:
        return None
    found = Timestamp()
    found.FromJsonString(text)
    return found
