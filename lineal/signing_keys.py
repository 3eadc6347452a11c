"""Which keys may sign bundles, and when: folded from the events about them."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.message import Message

from lineal.api.registry.v1.events_pb2 import SigningKeyAdded, SigningKeyRevoked
from lineal.signature import SignatureWrong, key_id, vouches

TYPES: tuple[type[Message], ...] = (SigningKeyAdded, SigningKeyRevoked)


@dataclass
class SigningKey:
    """A key as the log has it. `trusted` is a first key, and one that a trusted key vouched for while it counted."""

    public_key: str
    add_time: datetime
    expire_time: datetime
    trusted: bool
    revoke_reason: str = ""

    def counts(self, moment: datetime) -> bool:
        """Tell whether what it signed at a time counts."""
        return self.trusted and not self.revoke_reason and self.add_time <= moment < self.expire_time


class SigningKeys:
    """All keys by their ids, in the order in which they were added.

    `trusted` are ids of first keys; without any it is the first key of the log.
    """

    def __init__(self, trusted: Collection[str] = ()) -> None:
        self.keys: dict[str, SigningKey] = {}
        self._trusted = frozenset(filter(None, trusted))

    def apply(self, message: Message | None, moment: datetime) -> None:
        """Apply an event of the log and when it was recorded."""
        match message:
            case SigningKeyAdded() if key_id(message.public_key) not in self.keys:
                expire_time = message.expire_time.ToDatetime(tzinfo=UTC)
                self.keys[key_id(message.public_key)] = SigningKey(
                    message.public_key, moment, expire_time, self._is_trusted(message, moment, expire_time)
                )
            case SigningKeyRevoked() if message.key_id in self.keys:
                self.keys[message.key_id].revoke_reason = message.reason or "no reason given"

    def public_key(self, identity: str, moment: datetime) -> str:
        """Return the key of an id, in PEM. Raises SignatureWrong unless what it signed at that time counts."""
        key = self.keys.get(identity)
        if key is None:
            raise SignatureWrong(f"its key {identity[:12]} is not among the log's signing keys")
        if not key.trusted:
            raise SignatureWrong(
                f"no trusted key vouches for its key {identity[:12]}; if it is known to be the registry's, start "
                f"serving with LINEAL_SERVING_TRUSTED_KEYS={identity}"
            )
        if key.revoke_reason:
            raise SignatureWrong(
                f"its key {identity[:12]} was revoked ({key.revoke_reason}); `lineal bundle sign` signs it anew"
            )
        if not key.counts(moment):
            raise SignatureWrong(
                f"its key {identity[:12]} had expired when it was signed; `lineal bundle sign` signs it anew"
            )
        return key.public_key

    def _is_trusted(self, added: SigningKeyAdded, moment: datetime, expire_time: datetime) -> bool:
        if key_id(added.public_key) in self._trusted or not (self._trusted or self.keys):
            return True
        return any(
            key.counts(moment) and vouches(key.public_key, added.voucher, added.public_key, expire_time)
            for key in self.keys.values()
        )
