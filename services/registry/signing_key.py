"""The registry's signing keys: added, revoked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import NotFound
from lineal.api.registry.v1.events_pb2 import SigningKeyAdded, SigningKeyRevoked
from lineal.signature import key_id


class SigningKeyUnknown(NotFound):
    """No signing key has this id."""


@dataclass(frozen=True)
class SigningKeyIds:
    """Ids of all keys that were added, and of those that were revoked."""

    added: tuple[str, ...] = ()
    revoked: frozenset[str] = frozenset()


def add(state: SigningKeyIds, public_key: str, expire_time: datetime, voucher: bytes) -> Sequence[Message]:
    """Add a key; the same again changes nothing."""
    if key_id(public_key) in state.added:
        return []
    event = SigningKeyAdded(public_key=public_key, voucher=voucher)
    event.expire_time.FromDatetime(expire_time)
    return [event]


def revoke(state: SigningKeyIds, identity: str, reason: str) -> Sequence[Message]:
    """Revoke a key; nothing when it is revoked. Raises SigningKeyUnknown."""
    if identity not in state.added:
        raise SigningKeyUnknown(f"no signing key has the id {identity!r}; `lineal bundle keys` lists them")
    return [] if identity in state.revoked else [SigningKeyRevoked(key_id=identity, reason=reason)]


def evolve(state: SigningKeyIds, event: Message) -> SigningKeyIds:
    """Apply one event."""
    match event:
        case SigningKeyAdded():
            return replace(state, added=(*state.added, key_id(event.public_key)))
        case SigningKeyRevoked():
            return replace(state, revoked=state.revoked | {event.key_id})
    return state


decider = Decider(SigningKeyIds(), evolve)
