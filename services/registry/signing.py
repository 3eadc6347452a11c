"""Signs what is registered: serving, and whoever gets a bundle, knows that this registry has read these very files."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.clock import Clock
from chassis.errors import LinealError
from chassis.events import EventLog
from chassis.ids import request_id_from
from chassis.projection import ProjectionRunner
from lineal.api.registry.v1.model_pb2 import SigningKey
from lineal.signature import sign, signed_files, vouch
from lineal.signing_keys import SigningKeys
from services.registry import bundle as bundles
from services.registry import evidence, projections, signing_key
from services.registry.keys import KeyFile, Keys

_logger = logging.getLogger(__name__)
_OWNER = "registry"
# A key is replaced when so much of its life is left: while it counts it can vouch for the next.
_SHARE_LEFT = 0.25


class Signing:
    """The registry's keys, and signatures with the newest."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        tables: ProjectionRunner,
        keys: Keys,
        clock: Clock,
        key_life: timedelta,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._tables = tables
        self._keys = keys
        self._clock = clock
        self._life = key_life
        self._ids = Repository(log, "signing-keys", signing_key.decider)
        self._bundles = Repository(log, "bundle", bundles.decider)
        self._changing = asyncio.Lock()

    async def run(self) -> None:
        """Publish the key that signs, and sign what was registered before there were signatures."""
        key = await self._current()
        if not (await self._known()).keys[key.key_id].trusted:
            _logger.warning(
                "no trusted key vouches for signing key %s: serving takes what it signs once it is started with "
                "LINEAL_SERVING_TRUSTED_KEYS=%s",
                key.key_id[:12],
                key.key_id,
            )
        head = await self._log.head()
        for digest in await self._tables.query(projections.unsigned, head):
            try:
                await self.sign_bundle(request_id=request_id_from("sign", digest), digest=digest, again=False)
            except LinealError as error:
                # What is damaged stays unsigned, and serving says so; the others are not to blame.
                _logger.warning("bundle %s is not signed: %s", digest[:12], error.message)

    async def signature(self, digest: str, manifest: Mapping[str, Any]) -> str:
        """Sign a bundle whose files were read and verified; return the digest of the signature."""
        key = await self._current()
        data = sign(key.private, str(manifest["model"]), signed_files(digest, manifest["files"]))
        return await asyncio.to_thread(self._artifacts.put, data)

    async def sign_bundle(self, *, request_id: str, digest: str, again: bool = True) -> int:
        """Sign a registered bundle after reading every file of it; return the log position.

        What is signed already is signed again only if asked for. Raises BundleUnknown, ManifestInvalid.
        """
        bundles.require_known((await self._bundles.load(digest)).state, digest)
        manifest = await asyncio.to_thread(evidence.manifest, self._artifacts, digest)
        signature = await self.signature(digest, manifest)
        outcome = await self._bundles.execute(
            digest, request_id=request_id, decide=lambda state: bundles.sign(state, digest, signature, again=again)
        )
        return outcome.position

    async def rotate(self, *, request_id: str) -> tuple[str, int]:
        """Sign with a new key from now on; return its id and the log position."""
        async with self._changing:
            key = await asyncio.to_thread(self._keys.add, request_id)
            return key.key_id, await self._publish(key)

    async def revoke(self, *, request_id: str, identity: str, reason: str) -> int:
        """Let nothing count that a key has signed; return the log position. Raises SigningKeyUnknown."""
        if self._keys.current.key_id == identity:
            await self.rotate(request_id=request_id_from(request_id, "rotate"))
        outcome = await self._ids.execute(
            _OWNER, request_id=request_id, decide=lambda state: signing_key.revoke(state, identity, reason)
        )
        return outcome.position

    async def keys(self) -> list[SigningKey]:
        """Return the keys as the log has them, the newest last."""
        found = []
        for identity, key in (await self._known()).keys.items():
            message = SigningKey(
                key_id=identity, public_key=key.public_key, revoke_reason=key.revoke_reason, trusted=key.trusted
            )
            message.add_time.FromDatetime(key.add_time)
            message.expire_time.FromDatetime(key.expire_time)
            found.append(message)
        return found

    async def _current(self) -> KeyFile:
        """Return the key that signs: published, and not at the end of its life."""
        async with self._changing:
            key, known = self._keys.current, await self._known()
            if key.key_id not in known.keys:
                await self._publish(key)
                return key
            if known.keys[key.key_id].expire_time - self._clock.now() < self._life * _SHARE_LEFT:
                following = await asyncio.to_thread(self._keys.add, request_id_from("rotate", key.key_id))
                await self._publish(following)
                return following
            return key

    async def _publish(self, key: KeyFile) -> int:
        before, expire_time = self._keys.before(key), self._clock.now() + self._life
        # A signature names its key by the digest of this text: an artifact, as whatever is named so.
        await asyncio.to_thread(self._artifacts.put, key.public_key.encode())
        voucher = vouch(before.private, key.public_key, expire_time) if before else b""
        outcome = await self._ids.execute(
            _OWNER,
            request_id=key.request_id,
            decide=lambda state: signing_key.add(state, key.public_key, expire_time, voucher),
        )
        return outcome.position

    async def _known(self) -> SigningKeys:
        keys = SigningKeys()
        for event in await self._log.read_stream(f"signing-keys/{_OWNER}"):
            keys.apply(event.message, event.recorded_time)
        return keys
