"""The event log: `LineageLog` is the real one, `InMemoryLog` is for unit tests; both keep the same contract."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

import grpc
import grpc.aio
from google.protobuf.message import Message

from chassis.errors import Unavailable
from chassis.events import AppendResult, Delivery, Event, EventLog
from chassis.memory_log import InMemoryLog
from chassis.records import append_request, append_result, event_filter, to_event
from chassis.statuses import error_of
from lineal.api.lineage.v1.lineage_service_pb2 import GetHeadRequest, ReadStreamRequest, SubscribeRequest
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub

__all__ = ["AppendResult", "Delivery", "Event", "EventLog", "InMemoryLog", "LineageLog"]

_logger = logging.getLogger(__name__)
_RECONNECT_SECONDS = 0.2


class LineageLog:
    """The log behind lineage's RPCs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = LineageServiceStub(channel)

    async def append(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        request_id: str,
        expected_revision: int | None,
        event_time: datetime | None = None,
    ) -> AppendResult:
        """Append events to a stream, all or none, on behalf of the current caller."""
        request = append_request(
            stream, messages, request_id=request_id, expected_revision=expected_revision, event_time=event_time
        )
        try:
            response = await self._stub.AppendEvents(request)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        return append_result(response.events, position=response.position, repeated=response.repeated_request)

    async def read_stream(self, stream: str, after_revision: int = 0, limit: int | None = None) -> list[Event]:
        """Return the events of a stream in order, page by page."""
        events: list[Event] = []
        while limit is None or len(events) < limit:
            request = ReadStreamRequest(
                stream=stream, after_revision=after_revision, page_size=0 if limit is None else limit - len(events)
            )
            try:
                response = await self._stub.ReadStream(request)
            except grpc.aio.AioRpcError as error:
                raise _translated(error) from error
            events += [to_event(stored.record) for stored in response.records]
            if not response.records or events[-1].revision >= response.head_revision:
                break
            after_revision = events[-1].revision
        return events

    async def subscribe(
        self,
        after_position: int,
        types: Sequence[type[Message]] = (),
        prefixes: Sequence[str] = (),
    ) -> AsyncGenerator[Delivery, None]:
        """Yield history after a position, then live events; a connection that breaks is made again where it was."""
        position = after_position
        while True:
            call = self._stub.Subscribe(SubscribeRequest(after_position=position, filter=event_filter(types, prefixes)))
            try:
                async for response in call:
                    events = tuple(to_event(stored.record) for stored in response.records)
                    position = response.examined_position
                    yield Delivery(events, position, response.live)
            except grpc.aio.AioRpcError as error:
                meant = _translated(error)
                if not isinstance(meant, Unavailable):
                    raise meant from error
                _logger.info("subscription to the log broke at position %d, reconnecting: %s", position, meant)
            finally:
                call.cancel()
            # The channel waits for the connection; this only spaces out calls that a live server refuses.
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def head(self, then: datetime | None = None) -> int:
        """Return the position of the newest event, now or then."""
        request = GetHeadRequest()
        if then is not None:
            request.as_of_time.FromDatetime(then)
        try:
            return (await self._stub.GetHead(request)).position
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error


def _translated(error: grpc.aio.AioRpcError) -> Exception:
    return error_of(error) or error
