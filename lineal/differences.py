"""What differs between two declarations, field by field, as a project folder would write it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from itertools import zip_longest
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))
# What names an item of a list, so that it is known again at another place.
_NAMING = ("name", "view")


@dataclass(frozen=True)
class Difference:
    """One field that differs: its path, and both values as YAML has them; None is unset."""

    path: str
    old: Any
    new: Any


def differences(old: Message, new: Message) -> list[Difference]:
    """Return what differs between two messages of one type, in the order of the contract.

    Items of a list are known by their `name` or `view` where all have one: `features[orders_30d].aggregate.window`.
    """
    return list(_differ(written(old), written(new), ""))


def written(message: Message) -> Any:
    """Return a message as a project folder writes it: set fields only, enums short, durations as `7d`."""
    if isinstance(message, Duration):
        return _duration(message)
    if isinstance(message, Timestamp):
        return message.ToDatetime(tzinfo=UTC).isoformat()
    found = {known.name: _value(known, value) for known, value in message.ListFields()}
    only = message.DESCRIPTOR.fields[0].name if len(message.DESCRIPTOR.fields) == 1 else ""
    # A message of one field may be written as its value.
    return found.get(only, found)


def _value(known: FieldDescriptor, value: Any) -> Any:
    if known.message_type is not None and known.message_type.GetOptions().map_entry:
        return {str(key): item for key, item in sorted(value.items())}
    return [_single(known, item) for item in value] if known.is_repeated else _single(known, value)


def _single(known: FieldDescriptor, value: Any) -> Any:
    if known.message_type is not None:
        return written(value)
    return _enum(known.enum_type, value) if known.enum_type is not None else value


def _enum(enum: EnumDescriptor, number: int) -> Any:
    value = enum.values_by_number.get(number)
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix).lower() if value is not None else number


def _duration(duration: Duration) -> str:
    total = duration.ToNanoseconds()
    seconds, nanos = divmod(abs(total), 1_000_000_000)
    text = ""
    for size, unit in _UNITS:
        count, seconds = divmod(seconds, size)
        text += f"{count}{unit}" if count else ""
    if seconds or nanos or not text:
        text += f"{seconds}" + (f".{nanos:09d}".rstrip("0") if nanos else "") + "s"
    return f"-{text}" if total < 0 else text


def _differ(old: Any, new: Any, path: str) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differ(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and _of_mappings([*old, *new]):
        yield from _differ_in_items(old, new, path)
    elif old != new:
        yield Difference(path, old, new)


def _differ_in_items(old: list[Any], new: list[Any], path: str) -> Iterator[Difference]:
    naming = next((key for key in _NAMING if _named(old, key) and _named(new, key)), None)
    if naming is None:
        for index, (before, after) in enumerate(zip_longest(old, new)):
            yield from _differ(before, after, f"{path}[{index}]")
        return
    before, after = ({item[naming]: item for item in items} for items in (old, new))
    for name in [*before, *(name for name in after if name not in before)]:
        yield from _differ(before.get(name), after.get(name), f"{path}[{name}]")
    stayed = [name for name in before if name in after]
    if stayed != [name for name in after if name in before]:
        yield Difference(path, list(before), list(after))


def _of_mappings(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) for item in items)


def _named(items: list[Any], key: str) -> bool:
    names = [item.get(key) for item in items]
    return None not in names and len(set(names)) == len(names)
