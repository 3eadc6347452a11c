"""Checkpoints and proofs through the RPCs, checked with nothing but the public key; a rewritten log is noticed."""

import base64
import sqlite3
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from chassis.server import CannotStart, RunningServer, start
from lineal import merkle
from lineal.api.lineage.v1 import proof_service_pb2 as api
from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.proof_service_pb2_grpc import ProofServiceStub
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.notes import Checkpoint, NoteWrong, PublicKey, trusted_keys, verified
from services.lineage.server import build
from services.lineage.settings import Settings

if TYPE_CHECKING:
    from lineal.api.lineage.v1.proof_service_pb2_grpc import ProofServiceAsyncStub

_EVENTS = 600


def _settings(folder: Path, url: str | None = None) -> Settings:
    return Settings(port=0, data_dir=folder, database_url=url, drain_seconds=0)


@pytest.fixture(params=["sqlite", "postgres"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunningServer]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with start("lineage", _settings(tmp_path, url), build) as running:
        yield running


async def _append(channel: grpc.aio.Channel, count: int) -> None:
    request = AppendEventsRequest(request_id=str(uuid.uuid4()), stream="test/proofs")
    for n in range(count):
        request.events.add(event_id=str(uuid.uuid4()), type="some.Event", payload=str(n).encode())
    await LineageServiceStub(channel).AppendEvents(request)


async def _key(stub: "ProofServiceAsyncStub") -> tuple[str, PublicKey]:
    listed = await stub.ListKeys(api.ListKeysRequest())
    return listed.origin, PublicKey.parse(listed.keys[0])


async def test_every_event_is_proven_to_be_in_the_log(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        await _append(channel, _EVENTS)
        stub = ProofServiceStub(channel)
        origin, key = await _key(stub)
        for position in (1, 2, 255, 256, 257, 511, 513, _EVENTS):
            proof = await stub.GetInclusionProof(api.GetInclusionProofRequest(position=position))
            checkpoint = Checkpoint.parse(verified(proof.checkpoint, [key]))
            assert (checkpoint.origin, checkpoint.size) == (origin, _EVENTS)
            assert EventRecord.FromString(proof.record).position == position
            leaf = merkle.leaf_hash(proof.record)
            merkle.check_inclusion(leaf, position - 1, checkpoint.size, list(proof.path), checkpoint.root)


async def test_the_log_was_only_added_to(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = ProofServiceStub(channel)
        _, key = await _key(stub)
        seen = []
        for count in (1, 255, 1, 300):
            await _append(channel, count)
            note = (await stub.GetCheckpoint(api.GetCheckpointRequest())).checkpoint
            seen.append(Checkpoint.parse(verified(note, [key])))
        for old in seen:
            request = api.GetConsistencyProofRequest(old_size=old.size)
            proof = await stub.GetConsistencyProof(request)
            new = Checkpoint.parse(verified(proof.checkpoint, [key]))
            merkle.check_consistency(old.size, old.root, new.size, new.root, list(proof.path))


async def test_what_is_not_there_cannot_be_proven(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        await _append(channel, 3)
        stub = ProofServiceStub(channel)
        for call, code in (
            (stub.GetInclusionProof(api.GetInclusionProofRequest(position=4)), grpc.StatusCode.NOT_FOUND),
            (stub.GetCheckpoint(api.GetCheckpointRequest(size=4)), grpc.StatusCode.FAILED_PRECONDITION),
            (
                stub.GetConsistencyProof(api.GetConsistencyProofRequest(old_size=3, size=2)),
                grpc.StatusCode.FAILED_PRECONDITION,
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is code


async def test_a_rotated_key_is_vouched_for_by_the_one_before(tmp_path: Path) -> None:
    request_id = str(uuid.uuid4())
    async with (
        start("lineage", _settings(tmp_path), build) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        await _append(channel, 3)
        stub = ProofServiceStub(channel)
        origin, first = await _key(stub)
        rotate = api.RotateKeyRequest(request_id=request_id)
        second = (await stub.RotateKey(rotate)).key
        assert (await stub.RotateKey(rotate)).key == second
    async with (
        start("lineage", _settings(tmp_path), build) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub = ProofServiceStub(channel)
        listed = await stub.ListKeys(api.ListKeysRequest())
        assert list(listed.keys) == [str(first), second]
        note = (await stub.GetCheckpoint(api.GetCheckpointRequest())).checkpoint
        with pytest.raises(NoteWrong, match="none of the trusted keys"):
            verified(note, [first])
        assert verified(note, trusted_keys(first, origin, listed.rotations))


async def _grow(folder: Path) -> None:
    async with (
        start("lineage", _settings(folder), build) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        await _append(channel, 300)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET leaf_hash = zeroblob(32) WHERE position = 295",
        "UPDATE tree_nodes SET hash = zeroblob(32)",
        "DELETE FROM events WHERE position > 290",
        "DELETE FROM tree_nodes",
    ],
)
async def test_a_log_that_was_changed_does_not_start(tmp_path: Path, change: str) -> None:
    await _grow(tmp_path)
    checkpoints = tmp_path / "lineage" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"{300:020}.note", "checkpoint"]
    with sqlite3.connect(tmp_path / "lineage" / "lineage.db") as database:
        database.execute(change)
    database.close()
    with pytest.raises(CannotStart, match=r"restore|rewritten"):
        await _grow(tmp_path)


async def test_a_forged_checkpoint_is_refused(tmp_path: Path) -> None:
    await _grow(tmp_path)
    latest = tmp_path / "lineage" / "checkpoints" / "checkpoint"
    text = latest.read_text(encoding="utf-8")
    root = base64.b64encode(bytes(32)).decode()
    latest.write_text(text.replace(text.split("\n")[2], root), encoding="utf-8")
    with pytest.raises(CannotStart, match="not one of this log"):
        await _grow(tmp_path)
