"""Replicas of serving: events when one joins, applies a generation or leaves; leases in between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from google.protobuf.message import Message

from chassis.aggregate import Decider
from lineal.api.registry.v1.events_pb2 import GenerationApplied, ReplicaJoined, ReplicaLeft

LEASE = timedelta(seconds=10)


@dataclass(frozen=True)
class ReplicaState:
    """A replica and the generations that it has applied."""

    joined: bool = False
    generations: Mapping[str, int] = field(default_factory=dict)


def renew(state: ReplicaState, *, replica_id: str, generations: Mapping[str, int]) -> Sequence[Message]:
    """Return what a renewal tells that was not known: a plain renewal is no event."""
    events: list[Message] = [] if state.joined else [ReplicaJoined(replica_id=replica_id)]
    for endpoint, generation in sorted(generations.items()):
        if state.generations.get(endpoint) != generation:
            events.append(GenerationApplied(replica_id=replica_id, endpoint=endpoint, generation=generation))
    return events


def leave(state: ReplicaState, *, replica_id: str, expired: bool) -> Sequence[Message]:
    """Give the lease back, or let it end."""
    return [ReplicaLeft(replica_id=replica_id, expired=expired)] if state.joined else []


def evolve(state: ReplicaState, event: Message) -> ReplicaState:
    """Apply one event."""
    match event:
        case ReplicaJoined():
            return ReplicaState(joined=True)
        case GenerationApplied():
            return replace(state, generations={**state.generations, event.endpoint: event.generation})
        case ReplicaLeft():
            return ReplicaState()
    return state


decider = Decider(ReplicaState(), evolve)
