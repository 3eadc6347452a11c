"""Concurrent clients over gRPC while lineage is killed with SIGKILL: is what they were told what the log holds?"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from chassis.channels import open_service_channel
from chassis.log import LineageLog
from chassis.telemetry import Telemetry
from lineal import merkle
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from lineal.api.lineage.v1 import proof_service_pb2 as proofs
from lineal.api.lineage.v1.lineage_service_pb2 import (
    AppendEventsRequest,
    AppendEventsResponse,
    GetLineageRequest,
    SubscribeRequest,
)
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.projection_service_pb2 import VerifyProjectionsRequest
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceStub
from lineal.api.lineage.v1.proof_service_pb2_grpc import ProofServiceStub
from lineal.api.lineage.v1.record_pb2 import EventRecord, StoredRecord
from lineal.notes import Checkpoint, PublicKey, verified
from tests.integration.lineage.history import Attempt, History, Outcome, check, new_request
from tests.integration.lineage.processes import free_port, lineage

CLIENTS = 8
ROUNDS = 3
TOLD_A_ROUND = 120
_RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@asynccontextmanager
async def clients(history: History, address: str) -> AsyncIterator[None]:
    """Let clients write within the block; what is under way at its end is finished or given up."""
    async with grpc.aio.insecure_channel(address, _RECONNECT) as channel:
        stub: Any = LineageServiceStub(channel)
        tasks = [asyncio.create_task(history.client(stub, n, seed=n)) for n in range(CLIENTS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in ended), ended


async def when(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.01)


async def whole_log(channel: grpc.aio.Channel) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    stub: Any = LineageServiceStub(channel)
    async for response in stub.Subscribe(SubscribeRequest(), wait_for_ready=True):
        found += response.records
        if response.live:
            break
    return found


@pytest.mark.timeout(180)
async def test_what_clients_were_told_is_what_the_log_holds(tmp_path: Path, url: str | None) -> None:
    port, history = free_port(), History()
    address = f"127.0.0.1:{port}"
    checkpoints: list[Checkpoint] = []
    delivered: list[int] = []
    telemetry = Telemetry("test", None)

    def told() -> int:
        return history.counts()[Outcome.OK]

    async def follow(log: LineageLog) -> None:
        async with aclosing(log.subscribe(0)) as deliveries:
            async for delivery in deliveries:
                delivered.extend(event.position for event in delivery.events)

    async with open_service_channel(address, service="test", telemetry=telemetry) as kept:
        follower = asyncio.create_task(follow(LineageLog(kept)))
        async with clients(history, address):
            for _ in range(ROUNDS):
                enough = told() + TOLD_A_ROUND
                async with lineage(tmp_path, port, url) as process:
                    await when(lambda enough=enough: told() >= enough)  # type: ignore[misc]
                    async with grpc.aio.insecure_channel(address) as channel:
                        checkpoints.append(await signed(channel))
                    process.kill()
                    await process.wait()
        async with lineage(tmp_path, port, url), grpc.aio.insecure_channel(address) as channel:
            stored = await whole_log(channel)
            root = check(history, stored)
            # I3: the signed tree is the one over the stored bytes, and every earlier one is its beginning.
            newest = await signed(channel)
            assert (newest.size, newest.root) == (len(stored), root)
            stub: Any = ProofServiceStub(channel)
            for old in checkpoints:
                proof = await stub.GetConsistencyProof(proofs.GetConsistencyProofRequest(old_size=old.size))
                merkle.check_consistency(old.size, old.root, newest.size, newest.root, list(proof.path))
            # I7: read tables that lived through it all are those that the log makes.
            last = BatchAccepted.FromString(EventRecord.FromString(stored[-1].record).payload)
            node = GetLineageRequest(name=f"{last.dataset}/{last.batch_id}", min_position=len(stored))
            await LineageServiceStub(channel).GetLineage(node)
            tables: Any = ProjectionServiceStub(channel)
            (graph,) = (await tables.VerifyProjections(VerifyProjectionsRequest())).verifications
            assert graph.live_digest == graph.rebuilt_digest
            assert graph.rows == len(stored)
            # A subscriber that reconnected each time has seen every event once and in order.
            await when(lambda: len(delivered) >= len(stored))
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
    telemetry.shutdown()
    assert delivered == list(range(1, len(stored) + 1))
    counts = history.counts()
    assert counts[Outcome.OK] >= ROUNDS * TOLD_A_ROUND
    assert counts[Outcome.FAILED] > 0
    assert counts[Outcome.UNKNOWN] > 0


async def signed(channel: grpc.aio.Channel) -> Checkpoint:
    stub: Any = ProofServiceStub(channel)
    keys = [PublicKey.parse(key) for key in (await stub.ListKeys(proofs.ListKeysRequest())).keys]
    note = (await stub.GetCheckpoint(proofs.GetCheckpointRequest())).checkpoint
    return Checkpoint.parse(verified(note, keys))


def made(history: History, log: list[StoredRecord], outcome: Outcome, *, there: bool) -> None:
    """Add an append of two events to a history, and to a log when it is there."""
    request: AppendEventsRequest = new_request("batches/a", 2)
    tick = 2 * len(history.attempts)
    attempt = Attempt(request, tick, tick + 1, outcome)
    answer = AppendEventsResponse()
    for new in request.events if there else ():
        position = len(log) + 1
        record = EventRecord(
            position=position,
            stream=request.stream,
            revision=position,
            event_id=new.event_id,
            type=new.type,
            payload=new.payload,
        ).SerializeToString(deterministic=True)
        log.append(StoredRecord(record=record, leaf_hash=merkle.leaf_hash(record)))
        answer.events.add(event_id=new.event_id, position=position, revision=position)
        answer.position = position
    if outcome is Outcome.OK:
        attempt.answer = answer
    history.attempts.append(attempt)


def changed(stored: StoredRecord, **values: Any) -> StoredRecord:
    record = EventRecord.FromString(stored.record)
    for name, value in values.items():
        setattr(record, name, value)
    data = record.SerializeToString(deterministic=True)
    return StoredRecord(record=data, leaf_hash=merkle.leaf_hash(data))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda log: log.pop(), "I1: acknowledged event"),
        (lambda log: log.append(log[0]), "I1: acknowledged event"),
        (lambda log: log.__setitem__(1, changed(log[1], position=9)), "I1: an event lies elsewhere"),
        (
            lambda log: log.append(changed(log[0], event_id="nobody's", position=7, revision=7)),
            "I2: something is there",
        ),
        (lambda log: log.__setitem__(0, changed(log[0], payload=b"other")), "I2: something is there"),
        (lambda log: log.pop(2), "I2: an append is there in part"),
        (lambda log: log.__setitem__(0, StoredRecord(record=log[0].record, leaf_hash=bytes(32))), "I3: a leaf"),
    ],
)
def test_the_checker_finds_what_is_wrong(fault: Callable[[list[StoredRecord]], Any], message: str) -> None:
    history, log = History(), list[StoredRecord]()
    for outcome, there in ((Outcome.OK, True), (Outcome.UNKNOWN, True), (Outcome.UNKNOWN, False), (Outcome.OK, True)):
        made(history, log, outcome, there=there)
    check(history, log)
    fault(log)
    with pytest.raises(AssertionError, match=message):
        check(history, log)


def test_the_checker_finds_what_was_refused_and_what_is_out_of_order() -> None:
    history, log = History(), list[StoredRecord]()
    made(history, log, Outcome.OK, there=True)
    made(history, log, Outcome.FAILED, there=True)
    with pytest.raises(AssertionError, match="I2: an append is there that the log said it had refused"):
        check(history, log)
    history, log = History(), []
    for _ in range(2):
        made(history, log, Outcome.OK, there=True)
    first, second = history.attempts
    first.began, first.ended, second.began, second.ended = 2, 3, 0, 1
    with pytest.raises(AssertionError, match="I3: an append lies before one that had been acknowledged"):
        check(history, log)
