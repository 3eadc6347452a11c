"""A bundle that is damaged, forged or signed by a key that does not count is refused before anything native sees it.

`LINEAL_TEST_CORRUPTIONS=1200 python -m pytest` on this file asks for more of them.
"""

import asyncio
import hashlib
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf.message import Message

from chassis.artifacts import canonical_json
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.events_pb2 import (
    ArmsChanged,
    BundleApproved,
    BundleRegistered,
    BundleSigned,
    GatesEvaluated,
    SigningKeyAdded,
    SigningKeyRevoked,
)
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.client import Client
from lineal.errors import LinealError
from lineal.export import Exported, export_bundle
from lineal.signature import Signature, key_id, public_pem, sign, signed_files, vouch
from tabular.bundle import MODEL_FILE, Bundle
from tests.integration.serving.shop import Shop, opened
from tests.integration.test_predictions import champion, rid

pytestmark = pytest.mark.timeout(900)
COUNT = int(os.environ.get("LINEAL_TEST_CORRUPTIONS", "60"))
LIFE = timedelta(days=30)

Damage = Callable[[bytes, random.Random], bytes]


@pytest.fixture
async def world(suite: Any) -> Shop:
    return await opened(suite)


@dataclass
class Attacker:
    """Somebody who can write artifacts and append to the log, but has no key of the registry's."""

    world: Shop
    good: str
    generation: int
    random: random.Random

    @property
    def artifacts(self) -> Any:
        return self.world.suite.artifacts

    async def append(self, stream: str, *messages: Message) -> None:
        log = self.world.suite.servers["lineage"].harness.log
        await log.append(stream, messages, request_id=rid(), expected_revision=None)

    async def crown(self, digest: str) -> None:
        """Make a bundle the champion past registry, which would refuse it; wait until serving has seen to it."""
        self.generation += 1
        changed = ArmsChanged(endpoint="shop", generation=self.generation, arms=[champion(digest)])
        await self.append("endpoint/shop", changed)
        wanted = api.WaitForGenerationRequest(endpoint="shop", generation=self.generation)
        await self.world.registry.WaitForGeneration(wanted, timeout=60)

    async def refused(self, digest: str) -> str:
        """Return why serving refuses a bundle."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.crown(digest)
        assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION, error.value.details()
        return str(error.value.details())

    async def forged(self, base: str, *signatures: bytes, damage: Damage | None = None) -> str:
        """Return a bundle with a changed model whose digests all fit, gated and approved as far as the log says."""
        bundle = Bundle.from_bytes(self.artifacts.read(base))
        model = self.artifacts.put((damage or damaged)(self.artifacts.read(bundle.files[MODEL_FILE]), self.random))
        # Two files cut off at the same byte shall be two bundles.
        manifest = replace(bundle, files={**bundle.files, MODEL_FILE: model}, run_id=rid())
        digest: str = self.artifacts.put(canonical_json(manifest.to_json()))
        await self.append(
            f"bundle/{digest}",
            BundleRegistered(bundle_digest=digest, model="shop"),
            GatesEvaluated(bundle_digest=digest, passed=True),
            BundleApproved(bundle_digest=digest),
        )
        await self.sign(digest, *signatures)
        return digest

    async def sign(self, digest: str, *signatures: bytes) -> None:
        for signature in signatures:
            event = BundleSigned(bundle_digest=digest, signature_digest=self.artifacts.put(signature))
            await self.append(f"bundle/{digest}", event)

    def signed(self, digest: str, key: EllipticCurvePrivateKey) -> bytes:
        return sign(key, "shop", signed_files(digest, Bundle.from_bytes(self.artifacts.read(digest)).files))


def flipped(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def damaged(data: bytes, chance: random.Random) -> bytes:
    return chance.choice((flipped, cut_off))(data, chance)


async def files_of(attacker: Attacker, digest: str) -> dict[str, str]:
    found = (await attacker.world.registry.GetBundle(api.GetBundleRequest(digest=digest))).bundle
    files = Bundle.from_bytes(attacker.artifacts.read(digest)).files
    return {"manifest": digest, "signature": found.signature_digest, **files}


async def damaged_file(attacker: Attacker, victims: Sequence[str], name: str, damage: Damage | None) -> None:
    """Change a file of a registered bundle in the store; without `damage` into the same file of its twin."""
    victim, twin = attacker.random.sample(victims, 2)
    digest = (await files_of(attacker, victim))[name]
    path = attacker.artifacts.path(digest)
    whole = path.read_bytes()
    if damage:
        changed = damage(whole, attacker.random)
    else:
        changed = attacker.artifacts.read((await files_of(attacker, twin))[name])
    assert changed != whole
    path.chmod(0o600)
    path.write_bytes(changed)
    try:
        assert f"{name}: " in (why := await attacker.refused(victim))
        assert digest in why
    finally:
        # Else serving, which tries again by and by, loads it once it is whole.
        await attacker.crown(attacker.good)
        path.write_bytes(whole)


async def added(
    attacker: Attacker, voucher: EllipticCurvePrivateKey | None, life: timedelta
) -> EllipticCurvePrivateKey:
    """Add a signing key to the log that nobody vouches for, or somebody does."""
    key, expire_time = generate_private_key(SECP256R1()), datetime.now(UTC) + life
    event = SigningKeyAdded(public_key=public_pem(key))
    event.expire_time.FromDatetime(expire_time)
    event.voucher = vouch(voucher, public_pem(key), expire_time) if voucher else b""
    await attacker.append("signing-keys/registry", event)
    return key


async def test_nothing_corrupted_is_loaded_and_the_champion_serves_on(world: Shop) -> None:
    good = await world.bundle(1)
    victims = [await world.bundle(seed) for seed in (2, 3)]
    attacker = Attacker(world, good, await world.arms(champion(good)), random.Random(20261123))
    (path,) = (world.suite.folder / "registry" / "keys").glob("*.pem")
    assert path.stat().st_mode & 0o777 == 0o600
    registrys = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(registrys, EllipticCurvePrivateKey)
    stranger = generate_private_key(SECP256R1())
    unvouched = await added(attacker, stranger, LIFE)
    expired = await added(attacker, registrys, timedelta())
    revoked = await added(attacker, registrys, LIFE)
    revocation = SigningKeyRevoked(key_id=key_id(public_pem(revoked)), reason="stolen")
    await attacker.append("signing-keys/registry", revocation)

    async def wrongly_signed(key: EllipticCurvePrivateKey, why: str) -> None:
        digest = await attacker.forged(good)
        await attacker.sign(digest, attacker.signed(digest, key))
        assert why in await attacker.refused(digest)

    async def with_hint_of_registry() -> None:
        digest = await attacker.forged(good)
        forgery = attacker.signed(digest, stranger)
        own, claimed = (key_id(public_pem(key)).encode() for key in (stranger, registrys))
        await attacker.sign(digest, forgery.replace(own, claimed))
        assert "changed or forged" in await attacker.refused(digest)

    async def with_signature_of_twin() -> None:
        digest = await attacker.forged(good, attacker.signed(attacker.random.choice(victims), registrys))
        assert "it is the signature of other files: bundle.json, " in await attacker.refused(digest)

    async def unsigned() -> None:
        assert "nobody has signed it" in await attacker.refused(await attacker.forged(good))

    kinds: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
        *(
            partial(damaged_file, attacker, victims, name, damage)
            for name in await files_of(attacker, victims[0])
            for damage in (flipped, cut_off, None)
        ),
        lambda: wrongly_signed(stranger, "is not among the log's signing keys"),
        lambda: wrongly_signed(unvouched, "no trusted key vouches for its key"),
        lambda: wrongly_signed(expired, "had expired when it was signed"),
        lambda: wrongly_signed(revoked, "was revoked (stolen)"),
        with_hint_of_registry,
        with_signature_of_twin,
        unsigned,
    )
    assert len(kinds) <= COUNT
    for number in range(COUNT):
        await kinds[number % len(kinds)]()
        assert (await world.predict()).bundle_digest == good
    counters = (await world.serving.GetCounters(serving_api.GetCountersRequest())).endpoints[0]
    assert (counters.refused_generations, counters.failed_requests) == (COUNT, 0)
    # What is whole again, and what registry signed, is loaded.
    assert await world.arms(champion(victims[0])) == attacker.generation + 1
    assert (await world.predict()).bundle_digest == victims[0]


async def test_a_signed_model_that_catboost_cannot_load_dies_in_a_process_of_its_own(world: Shop) -> None:
    good = await world.bundle(1)
    attacker = Attacker(world, good, await world.arms(champion(good)), random.Random(1))
    for _ in range(max(1, COUNT // 100)):
        # A model with another bit may be a model all the same, half of one is none.
        digest = await attacker.forged(good, damage=cut_off)
        # Its files are as named, so registry signs it: what CatBoost makes of them it cannot know.
        await world.registry.SignBundle(api.SignBundleRequest(request_id=rid(), bundle_digest=digest))
        assert "a trial process could not load the model" in await attacker.refused(digest)
        assert (await world.predict()).bundle_digest == good


async def test_a_new_key_signs_and_a_revoked_one_needs_signing_anew(world: Shop) -> None:
    first, second = await world.bundle(1), await world.bundle(2)
    await world.arms(champion(first))
    (old,) = (await world.registry.ListSigningKeys(api.ListSigningKeysRequest())).keys
    rotated = api.RotateSigningKeyRequest(request_id=rid())
    new = (await world.registry.RotateSigningKey(rotated)).key_id
    assert (await world.registry.RotateSigningKey(rotated)).key_id == new
    third = await world.bundle(3)
    # What the old key signed stays good, and it vouches for the new one.
    await world.arms(champion(second))
    generation = await world.arms(champion(third))
    revocation = api.RevokeSigningKeyRequest(request_id=rid(), key_id=old.key_id, reason="stolen")
    await world.registry.RevokeSigningKey(revocation)
    attacker = Attacker(world, third, generation, random.Random(1))
    assert "was revoked (stolen); `lineal bundle sign`" in await attacker.refused(first)
    assert (await world.predict()).bundle_digest == third
    await attacker.crown(third)
    await world.registry.SignBundle(api.SignBundleRequest(request_id=rid(), bundle_digest=first))
    await world.arms(champion(first))
    listed = (await world.registry.ListSigningKeys(api.ListSigningKeysRequest())).keys
    assert [(key.key_id, key.trusted, key.revoke_reason) for key in listed] == [
        (old.key_id, True, "stolen"),
        (new, True, ""),
    ]


async def test_arms_that_lack_a_signature_are_applied_once_it_is_there(world: Shop) -> None:
    good = await world.bundle(1)
    attacker = Attacker(world, good, await world.arms(champion(good)), random.Random(1))
    digest = await attacker.forged(good, damage=lambda data, _: data)
    assert "nobody has signed it" in await attacker.refused(digest)
    await world.registry.SignBundle(api.SignBundleRequest(request_id=rid(), bundle_digest=digest))
    async with asyncio.timeout(60):
        while (await world.predict()).bundle_digest != digest:
            await asyncio.sleep(0.05)


async def test_an_exported_bundle_is_what_was_signed(world: Shop, tmp_path: Path) -> None:
    digest, folder = await world.bundle(1), tmp_path / "exported"

    def exported(to: Path) -> Exported:
        with Client(world.suite.profile) as client:
            return export_bundle(client.services, digest[:12], to)

    found = await asyncio.to_thread(exported, folder)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "bundle").iterdir()}
    assert files == signed_files(digest, Bundle.from_bytes(world.suite.artifacts.read(digest)).files)
    pem = (folder / "key.pem").read_text(encoding="utf-8")
    assert key_id(pem) == found.key_id
    Signature.parse((folder / "bundle.sig").read_bytes()).verify(pem, files)
    with pytest.raises(LinealError, match="name a new one"):
        await asyncio.to_thread(exported, folder)
    revocation = api.RevokeSigningKeyRequest(request_id=rid(), key_id=found.key_id, reason="stolen")
    await world.registry.RevokeSigningKey(revocation)
    with pytest.raises(LinealError, match="was revoked: stolen"):
        await asyncio.to_thread(exported, tmp_path / "again")


async def test_registry_signs_at_its_start_what_was_registered_before_there_were_signatures(suite: Any) -> None:
    await suite.start("lineage")
    digest = suite.artifacts.put(canonical_json({"model": "shop", "files": {}}))
    gone = "d" * 64
    log = suite.servers["lineage"].harness.log
    for each in (gone, digest):
        registered = BundleRegistered(bundle_digest=each, model="shop")
        await log.append(f"bundle/{each}", [registered], request_id=rid(), expected_revision=0)
    await suite.start("registry")
    async for delivery in log.subscribe(0, [BundleSigned]):
        if delivery.events:
            break
    assert [event.stream for event in delivery.events] == [f"bundle/{digest}"]
    found = await suite.stub("registry").GetBundle(api.GetBundleRequest(digest=digest))
    assert suite.artifacts.exists(found.bundle.signature_digest)
