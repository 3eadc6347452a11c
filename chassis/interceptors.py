"""The thin adapters that put `chassis.calls` around the RPCs of grpc.aio, all four kinds."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from chassis.calls import Call, Metadata, ServerCall, failed
from chassis.errors import DeadlinePassed, LinealError
from chassis.statuses import error_of
from chassis.telemetry import Telemetry

Handler = Any
Context = Any


class Methods(grpc.GenericRpcHandler):
    """The RPCs of a server: each gets its context, telemetry and error mapping, and unary ones a deadline.

    Stands where generated code expects the server, so that what is around a handler is put there once and not, as an
    interceptor does, with every call.
    """

    def __init__(self, telemetry: Telemetry, deadline_seconds: float) -> None:
        self._telemetry = telemetry
        self._deadline = deadline_seconds
        self._handlers: dict[str, Handler] = {}
        self._others: list[grpc.GenericRpcHandler] = []

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Offer the methods of a service."""
        for name, handler in method_handlers.items():
            method = f"/{service_name}/{name}"
            self._handlers[method] = self._wrap(handler, method)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Offer what these find for methods that no service has."""
        self._others += generic_rpc_handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Return the handler of a method, None where there is none."""
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        # What they find is not kept, or strangers could fill the memory with names.
        found = (handler for other in self._others if (handler := other.service(handler_call_details)) is not None)
        handler = next(found, None)
        return None if handler is None else self._wrap(handler, method)

    def _wrap(self, handler: Handler, method: str) -> Handler:
        coders = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streamed(handler.stream_stream, method), *coders)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streamed(handler.unary_stream, method), *coders)
        if handler.request_streaming:
            # An upload takes as long as its client needs: it is a stream and gets no deadline of ours.
            return grpc.stream_unary_rpc_method_handler(self._single(handler.stream_unary, method, None), *coders)
        return grpc.unary_unary_rpc_method_handler(self._single(handler.unary_unary, method, self._deadline), *coders)

    def _single(
        self, behavior: Callable[..., Any], method: str, deadline: float | None
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            seconds: float | None = context.time_remaining()
            limit = deadline if seconds is None else None
            with ServerCall(self._telemetry, method, _metadata(context), seconds if limit is None else limit) as call:
                try:
                    answering = behavior(request, context)
                    return await (answering if limit is None else _within(answering, limit))
                except BaseException as error:
                    await _answer_error(call, error, context)
            raise AssertionError("an error is always answered")

        return answer

    def _streamed(self, behavior: Callable[..., Any], method: str) -> Callable[[Any, Context], Awaitable[None]]:
        # A coroutine that writes, instead of a generator: when the call is cancelled, a coroutine ends there and then,
        # with the span and the context that it began with.
        async def answer(request: Any, context: Context) -> None:
            with ServerCall(self._telemetry, method, _metadata(context), context.time_remaining()) as call:
                try:
                    responses = behavior(request, context)
                    if inspect.isawaitable(responses):
                        await responses
                    else:
                        async with aclosing(responses) as generator:
                            async for response in generator:
                                await context.write(response)
                except BaseException as error:
                    await _answer_error(call, error, context)

        return answer


def _metadata(context: Context) -> Metadata:
    found: Metadata = context.invocation_metadata() or ()
    return found


async def _within(answer: Awaitable[Any], seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await answer
    except TimeoutError:
        if limit.expired():
            raise DeadlinePassed(
                f"no answer within the service's own limit of {seconds:g} s; send a deadline of your own"
            ) from None
        raise


async def _answer_error(call: Call, error: BaseException, context: Context) -> None:
    if isinstance(error, grpc.aio.AbortError):
        call.code = _code_name(context)
        raise error
    if isinstance(error, asyncio.CancelledError):
        call.code = "CANCELLED"
        raise error
    if not isinstance(error, Exception):
        raise error
    if isinstance(error, grpc.aio.AioRpcError):
        # What a service behind this one refused is refused: whoever called tries again where that helps.
        error = error_of(error) or error
    await context.abort_with_status(_Rich(failed(call, error), isinstance(error, LinealError)))


def _code_name(context: Context) -> str:
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), "UNKNOWN")


class _Rich(grpc.Status):
    def __init__(self, status: Any, shown: bool) -> None:
        self.code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        self.details = status.message
        self.trailing_metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        if shown and self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # Push-back: the client's own retries stop, it comes back when the RetryInfo says.
            self.trailing_metadata += (("grpc-retry-pushback-ms", "-1"),)
