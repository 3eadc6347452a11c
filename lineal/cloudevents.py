"""The log as CloudEvents 1.0, in their JSON format.

Attributes beyond the required ones are those of the CloudEvents extensions: recordedtime, sequence, partitionkey,
correlation (correlationid, causationid), distributed tracing (traceparent) and auth context (authtype, authid).
"""

import base64
from typing import Any

from google.protobuf.json_format import MessageToDict

from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.records import message_of

_AUTH_TYPES = {"person": "user", "service": "service_account", "saga": "system"}


def cloud_event(record: EventRecord) -> dict[str, Any]:
    """Return a record as a CloudEvent; an event of a type that is unknown here keeps its bytes, in base64."""
    message = message_of(record)
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": record.event_id,
        "source": f"/lineal/{record.stream.partition('/')[0]}",
        "type": record.type,
        "subject": record.stream,
        "time": record.event_time.ToJsonString(),
        "recordedtime": record.recorded_time.ToJsonString(),
        # Ordered as text, as the extension wants it.
        "sequence": f"{record.position:020}",
        "partitionkey": record.stream,
        "correlationid": record.correlation_id,
        "causationid": record.causation_id,
        "traceparent": record.traceparent,
        "authtype": _AUTH_TYPES.get(record.actor.partition(":")[0], "unknown"),
        "authid": record.actor,
    }
    event = {name: value for name, value in event.items() if value}
    if message is None:
        data = base64.b64encode(record.payload).decode()
        return event | {"datacontenttype": "application/protobuf", "data_base64": data}
    return event | {
        "datacontenttype": "application/json",
        "data": MessageToDict(message, preserving_proto_field_name=True),
    }
