"""A dataset: its declarations, one schema version after the other, and its snapshots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import FieldViolation, InvalidArgument, RuleViolated
from chassis.retirement import refuse_used
from lineal.api.ingest.v1.dataset_pb2 import Dataset, FieldType
from lineal.api.ingest.v1.events_pb2 import DatasetRegistered, DatasetRetired, SnapshotCreated
from services.ingest.pseudonyms import identifier_violations, identifiers
from services.ingest.rules import reference_violations, rule_violations
from tabular.definitions import dataset_violations
from tabular.schema import protected

NO_OTHERS: Mapping[str, Dataset | None] = MappingProxyType({})


class DatasetInvalid(InvalidArgument):
    """A declaration is not valid."""


class SchemaIncompatible(RuleViolated):
    """A new declaration would make rows unreadable that were accepted under an older one."""


@dataclass(frozen=True)
class DatasetState:
    """What the stream `dataset/<name>` says."""

    dataset: Dataset | None = None
    schema_version: int = 0
    # Type of every column there ever was: a name keeps its type for good.
    types: dict[str, int] = field(default_factory=dict)
    snapshots: dict[str, SnapshotCreated] = field(default_factory=dict)
    retired: bool = False


def register(
    state: DatasetState, dataset: Dataset, others: Mapping[str, Dataset | None] = NO_OTHERS
) -> Sequence[Message]:
    """Declare a dataset, or its next schema version; nothing for the declaration it has, unless it is retired.

    `others` are the datasets that its rules refer to, None for one that does not exist.
    """
    found = [*dataset_violations(dataset), *rule_violations(dataset), *reference_violations(dataset, others)]
    found += identifier_violations(dataset)
    violations = [FieldViolation(f"dataset.{v.field}", v.description) for v in found]
    if violations:
        raise DatasetInvalid(f"the declaration of dataset {dataset.name!r} is not valid", violations)
    if state.dataset == dataset and not state.retired:
        return []
    if state.dataset is not None:
        _check_compatible(state, state.dataset, dataset)
    return [DatasetRegistered(dataset=dataset, schema_version=state.schema_version + 1)]


def retire(state: DatasetState, name: str, *, reason: str, users: Sequence[str]) -> Sequence[Message]:
    """Retire a dataset that nothing uses; nothing when it is retired. Raises StillUsed."""
    if state.retired:
        return []
    refuse_used(f"dataset {name!r}", users)
    return [DatasetRetired(dataset=name, reason=reason)]


def record_snapshot(state: DatasetState, snapshot: SnapshotCreated) -> Sequence[Message]:
    """Record a snapshot; nothing when it was taken before."""
    return [] if snapshot.snapshot_digest in state.snapshots else [snapshot]


def evolve(state: DatasetState, event: Message) -> DatasetState:
    """Change the state by one event."""
    match event:
        case DatasetRegistered():
            types = state.types | {declared.name: int(declared.type) for declared in event.dataset.fields}
            version = event.schema_version
            return replace(state, dataset=event.dataset, schema_version=version, types=types, retired=False)
        case DatasetRetired():
            return replace(state, retired=True)
        case SnapshotCreated():
            return replace(state, snapshots=state.snapshots | {event.snapshot_digest: event})
        case _:
            return state


decider = Decider(initial=DatasetState(), evolve=evolve)


def _check_compatible(state: DatasetState, old: Dataset, new: Dataset) -> None:
    for declared in new.fields:
        before = state.types.get(declared.name, int(declared.type))
        if before != declared.type:
            raise SchemaIncompatible(
                f"{new.name}.{declared.name} was {FieldType.Name(before)} in an older version and cannot become "  # type: ignore[arg-type]
                f"{FieldType.Name(declared.type)}; give the new column another name"
            )
    there = {declared.name for declared in old.fields} & {declared.name for declared in new.fields}
    for what, changed in (
        ("direct identifier", identifiers(old) ^ identifiers(new)),
        ("protected attribute", set(protected(old)) ^ set(protected(new))),
    ):
        for name in sorted(there & changed):
            raise SchemaIncompatible(
                f"{new.name}.{name} cannot begin or cease to be a {what}: rows are there that hold it the other way; "
                "give the new column another name"
            )
    for name in ("row_key", "event_time", "available_time"):
        if getattr(old, name) != getattr(new, name):
            raise SchemaIncompatible(
                f"{name} of dataset {new.name!r} cannot change, rows are known by it; declare another dataset"
            )
