"""Examples of events with every field set, for `python -m tests.golden.write` and the test that reads the stored ones.

A file `<type>.v<n>.json` holds the bytes of a stored record and the JSON that they have always meant. A file is never
changed: when a message gets a field, the next version of its example is written beside the older ones.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from chassis.records import serialize
from lineal.api.features.v1 import events_pb2 as features
from lineal.api.ingest.v1 import events_pb2 as ingest
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.monitor.v1 import events_pb2 as monitor
from lineal.api.registry.v1 import events_pb2 as registry
from lineal.api.serving.v1 import events_pb2 as serving
from lineal.api.trainer.v1 import events_pb2 as trainer

FOLDER = Path(__file__).parent
MODULES = (features, ingest, monitor, registry, serving, trainer)
_SECONDS = 1_700_000_000


@dataclass(frozen=True)
class Golden:
    """One stored example."""

    type: str
    version: int
    record: bytes
    envelope: dict[str, Any]
    event: dict[str, Any]


def event_types() -> dict[str, type[Message]]:
    """Return every event message by its full name."""
    return {
        descriptor.full_name: GetMessageClass(descriptor)
        for module in MODULES
        for descriptor in module.DESCRIPTOR.message_types_by_name.values()
    }


@cache
def goldens() -> list[Golden]:
    """Return the stored examples, by type and version."""
    found = []
    for path in FOLDER.glob("*.json"):
        type_, _, version = path.stem.rpartition(".v")
        value = json.loads(path.read_text(encoding="utf-8"))
        record = base64.b64decode(value["record"])
        found.append(Golden(type_, int(version), record, value["envelope"], value["event"]))
    return sorted(found, key=lambda golden: (golden.type, golden.version))


def newest(type_: str) -> Golden | None:
    """Return the newest example of a type."""
    return next((golden for golden in reversed(goldens()) if golden.type == type_), None)


def decoded(golden: Golden) -> Message:
    """Return the event in the stored bytes."""
    return event_types()[golden.type].FromString(EventRecord.FromString(golden.record).payload)


def unset(message: Message, prefix: str = "") -> list[str]:
    """Return the paths of fields that an example leaves out; of a oneof one is enough."""
    missing: list[str] = []
    present = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        group = field.containing_oneof
        if group is not None and message.WhichOneof(group.name) not in (None, field.name):
            continue
        path = f"{prefix}{field.name}"
        if field.name not in present:
            missing.append(path)
            continue
        for inner in _messages(field, present[field.name]):
            missing += unset(inner, f"{path}.")
    return missing


def sample(kind: type[Message]) -> Message:
    """Return an example with every field set, the same each time."""
    message = kind()
    _fill(message, (message.DESCRIPTOR.full_name,))
    return message


def record_of(event: Message) -> EventRecord:
    """Return a stored record of an event."""
    record = EventRecord(
        position=41,
        stream="sample/golden",
        revision=3,
        event_id="11111111-1111-5111-8111-111111111111",
        request_id="22222222-2222-4222-8222-222222222222",
        type=event.DESCRIPTOR.full_name,
        payload=serialize(event),
        actor="person:golden",
        causation_id="33333333-3333-4333-8333-333333333333",
        correlation_id="44444444-4444-4444-8444-444444444444",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    record.event_time.FromSeconds(_SECONDS)
    record.recorded_time.FromNanoseconds(_SECONDS * 10**9 + 123_456_000)
    return record


def as_json(message: Message) -> dict[str, Any]:
    """Return what a message means."""
    return MessageToDict(message, preserving_proto_field_name=True)


def _messages(field: FieldDescriptor, value: Any) -> Iterator[Message]:
    if field.message_type is None or field.message_type.full_name.startswith("google.protobuf."):
        return
    if field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        for each in value.values() if inner.message_type is not None else ():
            yield from _messages(inner, each)
    elif field.is_repeated:
        yield from value
    else:
        yield value


def _fill(message: Message, above: tuple[str, ...]) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(message, field, above)
        elif field.message_type is not None:
            if field.message_type.full_name in above:
                continue
            target = getattr(message, field.name)
            inner = target.add() if field.is_repeated else target
            inner.SetInParent()
            _fill_message(inner, field.message_type, above)
        elif field.is_repeated:
            getattr(message, field.name).append(_scalar(field))
        else:
            setattr(message, field.name, _scalar(field))


def _fill_map(message: Message, field: FieldDescriptor, above: tuple[str, ...]) -> None:
    entry = field.message_type.fields_by_name
    key, value = _scalar(entry["key"]), entry["value"]
    if value.message_type is None:
        getattr(message, field.name)[key] = _scalar(value)
    else:
        _fill_message(getattr(message, field.name)[key], value.message_type, above)


def _fill_message(message: Message, descriptor: Descriptor, above: tuple[str, ...]) -> None:
    if descriptor.full_name.startswith("google.protobuf."):
        message.seconds = _SECONDS  # type: ignore[attr-defined]
    else:
        _fill(message, (*above, descriptor.full_name))


def _scalar(field: FieldDescriptor) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return f"{field.name}-{field.number}".encode() if field.type == field.TYPE_BYTES else f"a {field.name}"
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_ENUM:
            return field.enum_type.values[-1].number
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return field.number + 0.5
    return field.number + 1
