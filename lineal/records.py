"""Stored records of the log, as a client reads them."""

from collections.abc import Iterator

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from lineal.api.features.v1 import events_pb2 as features_events
from lineal.api.ingest.v1 import events_pb2 as ingest_events
from lineal.api.lineage.v1.lineage_service_pb2 import ListEventsRequest
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.monitor.v1 import events_pb2 as monitor_events
from lineal.api.registry.v1 import events_pb2 as registry_events
from lineal.api.serving.v1 import events_pb2 as serving_events
from lineal.api.trainer.v1 import events_pb2 as trainer_events
from lineal.calls import Service

# The modules whose messages are events; importing them makes the messages known by name.
EVENTS = (features_events, ingest_events, monitor_events, registry_events, serving_events, trainer_events)
_PAGE = 1000


def message_of(record: EventRecord) -> Message | None:
    """Return the event of a record, None when its type is unknown here or its bytes are none of that type."""
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(record.type)  # type: ignore[no-untyped-call]
    except KeyError:
        return None
    message = message_factory.GetMessageClass(kind)()
    try:
        message.ParseFromString(record.payload)
    except DecodeError:
        return None
    return message


def full_type(name: str) -> str:
    """Return the full name of an event type that may be given without its package."""
    if "." in name:
        return name
    for module in EVENTS:
        if name in module.DESCRIPTOR.message_types_by_name:
            return str(module.DESCRIPTOR.message_types_by_name[name].full_name)
    return name


def read(lineage: Service, request: ListEventsRequest, limit: int = 0) -> Iterator[EventRecord]:
    """Yield the records of a listing page by page, at most `limit`; 0 is all of them."""
    asked = ListEventsRequest()
    asked.CopyFrom(request)
    left = limit
    while True:
        asked.page_size = min(left, _PAGE) if limit else _PAGE
        page = lineage.call("ListEvents", asked)
        for stored in page.records:
            yield EventRecord.FromString(stored.record)
        left -= len(page.records)
        if not page.next_page_token or (limit and left <= 0):
            return
        asked.page_token = page.next_page_token
