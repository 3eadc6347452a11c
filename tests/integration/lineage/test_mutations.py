"""Flip single bytes of what a small suite has stored, at random: each is found, and the message names its layer.

The long run: `LINEAL_TEST_MUTATIONS=1000 python -m pytest --timeout 600` on this file.
"""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from sqlalchemy import Connection, Table, and_, create_engine, delete, func, select, update

from lineal import merkle, proof
from lineal.api.lineage.v1 import keeping_service_pb2 as api
from lineal.api.lineage.v1 import proof_service_pb2 as proof_api
from lineal.api.lineage.v1.keeping_service_pb2_grpc import KeepingServiceStub
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, GetHeadRequest
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.events_pb2 import SegmentSealed
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.calls import Services
from lineal.cli import keep
from lineal.cli.prove import read_proof
from lineal.errors import LinealError
from lineal.notes import PublicKey
from lineal.profile import Profile
from services.lineage.tables import events, nodes, sealed_ranges
from tabular.columns import from_numpy
from tests.integration.running import Suite
from tests.integration.test_predictions import World, champion, rid

MUTATIONS = int(os.environ.get("LINEAL_TEST_MUTATIONS", "100"))
DAY = 86_400_000_000
EVENTS = 600
SEALED = 200
# The layers that may name a change in a member of a proof file, beside `file`.
PROOF_LAYERS = {
    "format": {"file"},
    "checkpoint": {"checkpoint"},
    "rotations": {"checkpoint"},
    "event": {"log", "segment"},
    "prediction": {"prediction"},
    "manifests": {"manifest"},
    "served": {"log", "definition", "batch", "row"},
}


@dataclass(frozen=True)
class Stored:
    """The bytes of one layer: `read` and `write` one thing of it, found by its key."""

    layer: str
    keys: list[Any]
    read: Callable[[Any], bytes]
    write: Callable[[Any, bytes], None]


@contextmanager
def flipped(stored: Stored, chance: random.Random) -> Iterator[Any]:
    """Flip one byte of one thing within the block."""
    key = chance.choice(stored.keys)
    whole = stored.read(key)
    place = chance.randrange(len(whole))
    stored.write(key, whole[:place] + bytes([whole[place] ^ chance.randrange(1, 256)]) + whole[place + 1 :])
    try:
        yield key
    finally:
        stored.write(key, whole)


def files(layer: str, paths: list[Path]) -> Stored:
    def write(path: Path, data: bytes) -> None:
        path.chmod(0o600)
        path.write_bytes(data)

    return Stored(layer, paths, Path.read_bytes, write)


def column(layer: str, database: Connection, table: Table, name: str) -> Stored:
    key = list(table.primary_key.columns)
    keys = [tuple(row) for row in database.execute(select(*key).where(func.length(table.c[name]) > 0))]

    def found(values: Any) -> Any:
        return and_(*(one == value for one, value in zip(key, values, strict=True)))

    def read(values: Any) -> bytes:
        return bytes(database.execute(select(table.c[name]).where(found(values))).scalar_one())

    def write(values: Any, data: bytes) -> None:
        database.execute(update(table).where(found(values)).values({name: data}))

    return Stored(layer, keys, read, write)


@contextmanager
def writing(url: str) -> Iterator[Connection]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


async def told(suite: Suite) -> str:
    """Let a model answer, its answers be sealed and the log grow; return the id of a sealed prediction."""
    await suite.start("lineage", checkpoint_seconds=0.05)
    await suite.start("trainer", "registry", "features", "monitor", "serving")
    world = World(suite)
    await world.registry.RegisterModel(registry_api.RegisterModelRequest(request_id=rid(), model=Model(name="shop")))
    endpoint = Endpoint(name="shop", model="shop", strict=True)
    endpoint.monitoring.min_rows = 20
    await world.registry.RegisterEndpoint(registry_api.RegisterEndpointRequest(request_id=rid(), endpoint=endpoint))
    await world.arms(champion(await world.bundle(1)))
    ids = []
    for number in range(4):
        columns = [
            from_numpy("amount", np.random.default_rng(number).normal(size=30)),
            from_numpy("shop", np.array(["a"] * 30, dtype=object)),
        ]
        answer = await world.serving.Predict(
            serving_api.PredictRequest(
                endpoint="shop", columns=columns, event_time_micros=[1_400_000_000_000_000 + number * 5 * DAY]
            )
        )
        ids += answer.prediction_ids
    await world.recorded(120)
    await world.monitor.ExaminePeriods(monitor_api.ExaminePeriodsRequest(request_id=rid(), endpoint="shop"), timeout=60)
    await grown(suite)
    return str(ids[0])


async def grown(suite: Suite) -> None:
    for number in range(EVENTS // 50):
        request = AppendEventsRequest(request_id=rid(), stream=f"test/{number}")
        for n in range(50):
            request.events.add(event_id=rid(), type="some.Event", payload=f"{number} {n}".encode() * 5)
        await suite.stub("lineage").AppendEvents(request)


async def checkpointed(suite: Suite, folder: Path) -> None:
    """Wait until a checkpoint of the whole log is in the second place."""
    stub = suite.stub("lineage")
    while not (folder / f"{(await stub.GetHead(GetHeadRequest())).position:020}.note").exists():
        await asyncio.sleep(0.05)


async def findings(stub: Any) -> list[api.Finding]:
    return [finding async for response in stub.VerifyLog(api.VerifyLogRequest()) for finding in response.findings]


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def segment_digests(database: Connection) -> set[str]:
    records = database.execute(select(events.c.record).where(events.c.type.endswith(".SegmentSealed"))).scalars()
    return {SegmentSealed.FromString(EventRecord.FromString(record).payload).segment_digest for record in records}


def changed_member(whole: Any, path: Path) -> str | None:
    """Return the member of a proof file that is another one, None when the file cannot be read as JSON."""
    try:
        given = json.loads(path.read_bytes())
    except ValueError:
        return None
    return next((name for name in whole if given.get(name) != whole[name]), None)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_flipped_byte_is_found_and_its_layer_is_named(suite: Suite) -> None:
    prediction = await told(suite)
    with writing(f"sqlite:///{suite.folder / 'lineage' / 'lineage.db'}") as database:
        segments = segment_digests(database)
    async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
        sealing = KeepingServiceStub(channel).SealEvents(api.SealEventsRequest(position=SEALED))
        sealed_files = [response.range.digest async for response in sealing]
    chance = random.Random(MUTATIONS)
    data = suite.folder
    await checkpointed(suite, data / "lineage" / "checkpoints")
    with Services(Profile.load(suite.profile)) as services:
        made = await asyncio.to_thread(proof.of_prediction, services, prediction)
        listed = await asyncio.to_thread(services.proofs.call, "ListKeys", proof_api.ListKeysRequest())
    key = PublicKey.parse(listed.keys[0])
    proof_file = data / "proof.json"
    proof_file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for name in made:
        renamed = {chr(ord(each[0]) ^ 1) + each[1:] if each == name else each: made[each] for each in made}
        with pytest.raises(proof.ProofInvalid):
            proof.check(renamed, key)
    artifacts = files_in(data / "artifacts")
    with writing(f"sqlite:///{data / 'lineage' / 'lineage.db'}") as database:
        database.exec_driver_sql("PRAGMA synchronous=OFF")
        layers = [
            column("record", database, events, "record"),
            column("tree", database, events, "leaf_hash"),
            column("tree", database, nodes, "hash"),
            column("sealed range", database, sealed_ranges, "merkle_root"),
            files("sealed range", [path for path in artifacts if path.name in sealed_files]),
            files("segment", [path for path in artifacts if path.name in segments]),
            files("artifact", [path for path in artifacts if path.name not in {*sealed_files, *segments}]),
            files("checkpoint", files_in(data / "lineage" / "checkpoints")),
            files("proof", [proof_file]),
        ]
        found: Counter[str] = Counter()
        async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
            stub = KeepingServiceStub(channel)
            assert await findings(stub) == []
            for n in range(MUTATIONS):
                stored = layers[n % len(layers)]
                with flipped(stored, chance) as where:
                    if stored.layer == "proof":
                        with pytest.raises(LinealError) as caught:
                            proof.check(read_proof(proof_file), key)
                        layer = str(caught.value).partition(":")[0]
                        member = changed_member(made, proof_file)
                        assert layer in PROOF_LAYERS.get(member or "format", {"file"}) | {"file"}, (where, layer)
                    else:
                        named = {finding.layer for finding in await findings(stub)}
                        assert named == {stored.layer}, (stored.layer, where, named)
                    found[stored.layer] += 1
            rows = await asyncio.to_thread(keep.verified, Profile.load(suite.profile))
            assert [(good, "examined" in finding) for _, good, finding in rows] == [(True, True)] * 2
            with flipped(layers[0], chance) as (position,):
                ((check, good, finding),) = await asyncio.to_thread(keep.verified, Profile.load(suite.profile))
                assert (check, good) == ("record is as stored", False)
                assert f"position {position} was changed" in finding
    assert sum(found.values()) == MUTATIONS
    assert proof.check(read_proof(proof_file), key).prediction is not None


async def test_it_is_found_on_postgres_too(suite: Suite, postgres_url: str) -> None:
    await suite.start("lineage", checkpoint_seconds=0.05, database_url=postgres_url)
    await grown(suite)
    await checkpointed(suite, suite.folder / "lineage" / "checkpoints")
    chance = random.Random(7)
    with writing(postgres_url) as database:
        layers = [
            column("record", database, events, "record"),
            column("tree", database, events, "leaf_hash"),
            column("tree", database, nodes, "hash"),
        ]
        async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
            stub = KeepingServiceStub(channel)
            for stored in layers * 5:
                with flipped(stored, chance):
                    assert {finding.layer for finding in await findings(stub)} == {stored.layer}
            assert await findings(stub) == []


async def test_what_is_gone_or_rewritten_is_found(suite: Suite) -> None:
    await suite.start("lineage", checkpoint_seconds=0.05)
    await grown(suite)
    await checkpointed(suite, suite.folder / "lineage" / "checkpoints")
    async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
        stub = KeepingServiceStub(channel)
        with writing(f"sqlite:///{suite.folder / 'lineage' / 'lineage.db'}") as database:
            database.execute(update(events).where(events.c.position == 300).values(type="other.Event"))
            (finding,) = await findings(stub)
            assert (finding.layer, "position 300 was changed: its column type" in finding.message) == ("record", True)
            # A record with its leaf hash, and no kept node above it: only the signature tells.
            record = database.execute(select(events.c.record).where(events.c.position == 598)).scalar_one()
            other = record.replace(b"some.Event", b"fake.Event")
            database.execute(
                update(events)
                .where(events.c.position == 598)
                .values(record=other, leaf_hash=merkle.leaf_hash(other), type="fake.Event")
            )
            database.execute(update(events).where(events.c.position == 300).values(type="some.Event"))
            assert {finding.layer for finding in await findings(stub)} == {"checkpoint"}
            database.execute(delete(nodes).where(nodes.c.index == 1))
            assert {finding.layer for finding in await findings(stub)} == {"checkpoint", "tree"}
            database.execute(delete(events).where(events.c.position == 400))
            assert "events after position 399 are missing" in [f.message for f in await findings(stub)][-1]
