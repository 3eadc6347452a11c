"""LineageService: RPC in, application call, RPC out."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from chassis.context import traceparent
from chassis.errors import FieldViolation, InvalidArgument
from chassis.records import to_datetime
from lineal.api.lineage.v1.lineage_service_pb2 import (
    AppendEventsRequest,
    AppendEventsResponse,
    GetEventRequest,
    GetEventResponse,
    GetHeadRequest,
    GetHeadResponse,
    GetLineageRequest,
    GetLineageResponse,
    ListEventsRequest,
    ListEventsResponse,
    ReadStreamRequest,
    ReadStreamResponse,
    SubscribeRequest,
    SubscribeResponse,
)
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceServicer
from lineal.api.lineage.v1.record_pb2 import EventFilter, StoredRecord
from services.lineage.application import Application
from services.lineage.graph import Graph
from services.lineage.store import Filter, Stored

_LIST_PAGE = 100
_MAX_LIST_PAGE = 1000
_TRACEPARENT_CHARACTERS = 64


class LineageServicer(LineageServiceServicer):
    """Answers the RPCs of lineage."""

    def __init__(self, application: Application, graph: Graph) -> None:
        self._application = application
        self._graph = graph

    async def AppendEvents(self, request: AppendEventsRequest, _context: Any) -> AppendEventsResponse:
        """Append events to one stream."""
        return await self._application.append(request, traceparent()[:_TRACEPARENT_CHARACTERS])

    async def GetHead(self, request: GetHeadRequest, _context: Any) -> GetHeadResponse:
        """Return the position of the newest event, now or then."""
        if request.HasField("as_of_time"):
            return GetHeadResponse(position=await self._application.position_at(to_datetime(request.as_of_time)))
        return GetHeadResponse(position=self._application.head())

    async def GetEvent(self, request: GetEventRequest, _context: Any) -> GetEventResponse:
        """Return one event."""
        match request.WhichOneof("key"):
            case "position":
                found = await self._application.event_at(request.position)
            case "event_id":
                found = await self._application.event_by_id(request.event_id)
            case _:
                raise InvalidArgument(
                    "no event is named", [FieldViolation("key", "give either a position or an event id")]
                )
        return GetEventResponse(record=_stored(found))

    async def ReadStream(self, request: ReadStreamRequest, _context: Any) -> ReadStreamResponse:
        """Return events of one stream."""
        records, head = await self._application.read_stream(request.stream, request.after_revision, request.page_size)
        return ReadStreamResponse(records=_all(records), head_revision=head)

    async def ListEvents(self, request: ListEventsRequest, _context: Any) -> ListEventsResponse:
        """List events of the whole log."""
        wanted = _filter(request.filter)
        limit = min(request.page_size or _LIST_PAGE, _MAX_LIST_PAGE)
        token = _position(request.page_token)
        until = self._application.head()
        if request.HasField("recorded_until_time"):
            until = await self._application.position_at(to_datetime(request.recorded_until_time))
        if request.newest_first:
            before = token or until + 1
            records, more = await self._application.list_newest(before, request.after_position, wanted, limit)
        else:
            after = max(token, request.after_position)
            records, more = await self._application.list_oldest(after, until, wanted, limit)
        return ListEventsResponse(records=_all(records), next_page_token=str(more) if more else "")

    async def Subscribe(self, request: SubscribeRequest, _context: Any) -> AsyncIterator[SubscribeResponse]:
        """Stream history, then live events."""
        async for delivered in self._application.subscribe(request.after_position, _filter(request.filter)):
            yield SubscribeResponse(
                records=_all(delivered.records), examined_position=delivered.examined, live=delivered.live
            )

    async def GetLineage(self, request: GetLineageRequest, _context: Any) -> GetLineageResponse:
        """Walk the lineage graph."""
        return await self._graph.walk(request)


def _filter(given: EventFilter) -> Filter:
    return Filter(tuple(given.types), tuple(given.stream_prefixes))


def _position(token: str) -> int:
    if not token:
        return 0
    try:
        return int(token)
    except ValueError:
        raise InvalidArgument(
            "the page token is not one of ours",
            [FieldViolation("page_token", "must be the next_page_token of the page before, or empty")],
        ) from None


def _stored(record: Stored) -> StoredRecord:
    return StoredRecord(record=record.record, leaf_hash=record.leaf_hash)


def _all(records: Iterable[Stored]) -> list[StoredRecord]:
    return [_stored(record) for record in records]
