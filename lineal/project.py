"""Read a project folder: YAML documents parsed straight into the contracts' messages.

Each document has a `kind` (Dataset, FeatureView, FeatureSet, Model or Endpoint) and the fields of that message under
their names in the contract. Enum values are written short (`type: float64`), durations as `7d`, `2h30m` or `-2h`, times
in ISO 8601. A mistake is told with file, line and field; all of them at once.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from lineal.errors import Mistake, ProjectInvalid

# In the order in which definitions stand on each other.
KINDS: Mapping[str, type[Message]] = {
    "Dataset": Dataset,
    "FeatureView": FeatureView,
    "FeatureSet": FeatureSet,
    "Model": Model,
    "Endpoint": Endpoint,
}
_DURATION = re.compile(r"(-?)((?:\d+(?:\.\d+)?[dhms])+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_INTEGERS = (
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
)


@dataclass(frozen=True)
class Definition:
    """One definition with the place of each of its fields, so that a service's complaint can name the line."""

    kind: str
    message: Any
    file: Path
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.message.name)

    def where(self, path: str) -> str:
        """Return file and line of a field path, or of the nearest field around it."""
        parts = re.findall(r"[^.\[\]]+", path)
        for count in range(len(parts), -1, -1):
            line = self.lines.get(".".join(parts[:count]))
            if line is not None:
                return f"{self.file}:{line}"
        return str(self.file)


def read_project(folder: Path) -> list[Definition]:
    """Return the definitions of a folder in the order in which they must be registered.

    Raises ProjectInvalid with every mistake found.
    """
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if folder.is_dir() else []
    if not files:
        raise ProjectInvalid([Mistake(str(folder), "", "is no folder with .yaml files; name a project folder")])
    found: list[Definition] = []
    mistakes: list[Mistake] = []
    for file in files:
        try:
            with file.open(encoding="utf-8") as stream:
                documents = list(yaml.compose_all(stream, Loader=yaml.SafeLoader))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            mistakes.append(Mistake(f"{file}:{line}", "", f"is no YAML: {error.problem}"))
            continue
        for document in documents:
            if document is None:
                continue
            reader = _Reader(file)
            definition: Definition | None = reader.definition(document)
            mistakes += reader.mistakes
            if definition:
                found.append(definition)
    mistakes += list(_twice(found))
    if mistakes:
        raise ProjectInvalid(mistakes)
    return sorted(_referred_first(found), key=lambda definition: list(KINDS).index(definition.kind))


def parse_duration(text: str) -> timedelta:
    """Return a duration written as `7d`, `2h30m`, `-2h`, `0.5s`. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no duration; write it like 7d, 2h30m, 90s or -2h")
    seconds = sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(match[2]))
    return timedelta(seconds=-seconds if match[1] else seconds)


def _referred_first(found: list[Definition]) -> list[Definition]:
    """Put datasets before those whose rules look values up in them; the rest stays as it is."""
    datasets = {definition.name: definition for definition in found if definition.kind == "Dataset"}
    ordered: dict[int, Definition] = {}
    under_way: set[int] = set()

    def put(definition: Definition) -> None:
        if id(definition) in ordered or id(definition) in under_way:
            return
        under_way.add(id(definition))
        for rule in definition.message.rules if definition.kind == "Dataset" else ():
            if rule.reference.dataset in datasets:
                put(datasets[rule.reference.dataset])
        ordered[id(definition)] = definition

    for definition in found:
        put(definition)
    return list(ordered.values())


def _twice(found: list[Definition]) -> Iterator[Mistake]:
    seen: dict[tuple[str, str], Definition] = {}
    for definition in found:
        first = seen.setdefault((definition.kind, definition.name), definition)
        if first is not definition:
            what = f"{definition.kind} {definition.name!r} is defined twice, first at {first.where('name')}"
            yield Mistake(definition.where("name"), "name", what)


class _Reader:
    """Reads the documents of one file and collects its mistakes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.mistakes: list[Mistake] = []
        self._lines: dict[str, int] = {}

    def definition(self, node: yaml.Node) -> Any:
        self._lines = {"": node.start_mark.line + 1}
        if not isinstance(node, yaml.MappingNode):
            return self._wrong(node, "", "a document must be a mapping that begins with `kind:`")
        pairs = [(key, value) for key, value in node.value if key.value != "kind"]
        kind = next((value for key, value in node.value if key.value == "kind"), None)
        if kind is None or kind.value not in KINDS:
            given = "is missing" if kind is None else f"{kind.value!r} is unknown" + _nearest(kind.value, KINDS)
            return self._wrong(kind or node, "kind", f"{given}; it is one of {', '.join(KINDS)}")
        message = KINDS[kind.value]()
        self._fill(message, pairs, "")
        if not getattr(message, "name", "") and not self.mistakes:
            return self._wrong(node, "name", "is missing")
        return Definition(kind.value, message, self.file, self._lines)

    def _fill(self, message: Message, pairs: list[tuple[yaml.Node, yaml.Node]], path: str) -> None:
        descriptor = message.DESCRIPTOR
        for key, value in pairs:
            name = str(key.value)
            where = f"{path}.{name}" if path else name
            self._lines[where] = key.start_mark.line + 1
            known = descriptor.fields_by_name.get(name)
            if known is None:
                near = _nearest(name, descriptor.fields_by_name)
                self._wrong(key, where, f"is unknown{near}; known are {', '.join(descriptor.fields_by_name)}")
                continue
            oneof = known.containing_oneof
            if oneof is not None and message.WhichOneof(oneof.name) not in (None, name):
                other = message.WhichOneof(oneof.name)
                self._wrong(key, where, f"excludes {other!r}, which is set too; give one of the two")
                continue
            self._set(message, known, value, where)

    def _set(self, message: Message, known: FieldDescriptor, node: yaml.Node, path: str) -> None:
        if _is_map(known):
            self._set_map(message, known, node, path)
        elif known.is_repeated:
            self._set_list(message, known, node, path)
        elif known.message_type is not None:
            self._set_message(getattr(message, known.name), known.message_type, node, path, present=True)
        else:
            value = self._scalar(known, node, path)
            if value is not None:
                setattr(message, known.name, value)

    def _set_map(self, message: Message, known: FieldDescriptor, node: yaml.Node, path: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, path, "must be a mapping")
            return
        for key, value in node.value:
            if isinstance(value, yaml.ScalarNode):
                getattr(message, known.name)[str(key.value)] = str(value.value)
            else:
                self._wrong(value, f"{path}.{key.value}", "must be a text")

    def _set_list(self, message: Message, known: FieldDescriptor, node: yaml.Node, path: str) -> None:
        if not isinstance(node, yaml.SequenceNode):
            self._wrong(node, path, "must be a list: write [a, b] or one `- item` per line")
            return
        for index, item in enumerate(node.value):
            where = f"{path}.{index}"
            self._lines[where] = item.start_mark.line + 1
            if known.message_type is not None:
                self._set_message(getattr(message, known.name).add(), known.message_type, item, where, present=False)
                continue
            value = self._scalar(known, item, where)
            if value is not None:
                getattr(message, known.name).append(value)

    def _set_message(self, message: Any, kind: Descriptor, node: yaml.Node, path: str, *, present: bool) -> None:
        if kind.full_name == "google.protobuf.Duration":
            self._set_time(message.FromTimedelta, parse_duration, node, path)
        elif kind.full_name == "google.protobuf.Timestamp":
            self._set_time(message.FromDatetime, _instant, node, path)
        elif isinstance(node, yaml.MappingNode):
            if present:
                message.SetInParent()
            self._fill(message, node.value, path)
        elif isinstance(node, yaml.ScalarNode) and len(kind.fields) == 1:
            # A message of one field may be written as its value.
            self._set(message, kind.fields[0], node, path)
        else:
            self._wrong(node, path, f"must be a mapping with {', '.join(kind.fields_by_name)}")

    def _set_time(self, setter: Any, parse: Any, node: yaml.Node, path: str) -> None:
        if not isinstance(node, yaml.ScalarNode):
            self._wrong(node, path, "must be a single value")
            return
        try:
            setter(parse(str(node.value)))
        except ValueError as error:
            self._wrong(node, path, str(error))

    def _scalar(self, known: FieldDescriptor, node: yaml.Node, path: str) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return self._wrong(node, path, "must be a single value")
        text = str(node.value)
        if known.enum_type is not None:
            return self._enum(known.enum_type, node, text, path)
        if known.type == FieldDescriptor.TYPE_STRING:
            return text
        value = yaml.SafeLoader("").construct_object(node)
        if known.type == FieldDescriptor.TYPE_BOOL:
            return value if isinstance(value, bool) else self._wrong(node, path, f"{text!r} must be true or false")
        if known.type in _INTEGERS:
            if isinstance(value, int) and not isinstance(value, bool):
                try:
                    known.containing_type._concrete_class(**{known.name: [value] if known.is_repeated else value})
                except ValueError:
                    return self._wrong(node, path, f"{text} is out of range")
                return value
            return self._wrong(node, path, f"{text!r} must be a whole number")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        return self._wrong(node, path, f"{text!r} must be a number")

    def _enum(self, enum: EnumDescriptor, node: yaml.Node, text: str, path: str) -> Any:
        prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
        known = {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}
        number = known.get(text.lower(), known.get(text.removeprefix(prefix).lower()))
        if number is None:
            return self._wrong(
                node, path, f"{text!r} is unknown{_nearest(text, known)}; it is one of {', '.join(known)}"
            )
        return number

    def _wrong(self, node: yaml.Node, path: str, what: str) -> Any:
        """Note a mistake; returns None, the value of what could not be read."""
        self.mistakes.append(Mistake(f"{self.file}:{node.start_mark.line + 1}", path, what))


def _is_map(known: FieldDescriptor) -> bool:
    return known.message_type is not None and known.message_type.GetOptions().map_entry


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write it like 2013-04-01 or 2013-04-01T12:00:00+00:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
