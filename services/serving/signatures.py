"""Whether a bundle is signed by a key that counted when it signed, by what the log says."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import Message

from chassis.artifacts import ArtifactStore
from chassis.errors import LinealError, RuleViolated
from chassis.events import Event
from lineal import signing_keys
from lineal.api.registry.v1.events_pb2 import BundleSigned
from lineal.signature import Signature, SignatureWrong, signed_files

TYPES: tuple[type[Message], ...] = (BundleSigned, *signing_keys.TYPES)


class BundleNotSigned(RuleViolated):
    """No signature of a bundle holds."""


@dataclass(frozen=True)
class _Signed:
    signature_digest: str
    moment: datetime


class Signatures:
    """The signatures of all bundles and the keys behind them; `trusted` are ids of first keys."""

    def __init__(self, artifacts: ArtifactStore, trusted: Collection[str] = ()) -> None:
        self._artifacts = artifacts
        self._keys = signing_keys.SigningKeys(trusted)
        self._signed: dict[str, list[_Signed]] = {}

    def apply(self, event: Event) -> None:
        """Apply an event."""
        if isinstance(event.message, BundleSigned):
            signed = _Signed(event.message.signature_digest, event.recorded_time)
            self._signed.setdefault(event.message.bundle_digest, []).append(signed)
        else:
            self._keys.apply(event.message, event.recorded_time)

    def check(self, bundle_digest: str, files: Mapping[str, str]) -> None:
        """Raise BundleNotSigned, naming why, unless a signature over exactly these digests holds. Blocking."""
        why = "nobody has signed it; registry signs what is registered when it starts, `lineal bundle sign` at any time"
        for signed in self._signed.get(bundle_digest, ()):
            try:
                signature = Signature.parse(self._artifacts.read(signed.signature_digest))
                key = self._keys.public_key(signature.key_id, signed.moment)
                signature.verify(key, signed_files(bundle_digest, files))
            except SignatureWrong as error:
                why = str(error)
            except LinealError as error:
                why = error.message
            else:
                return
        raise BundleNotSigned(f"its signature does not hold: {why}")
