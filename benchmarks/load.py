"""Clients that append or read as fast as they are answered, in a process of their own; prints JSON.

Those that append speak HTTP/2 by themselves (`wire`), since a client in Python's gRPC takes as much of the machine as
the server; reading, filling and proving use the client that everybody uses.

`python -m benchmarks.load append ADDRESS CLIENTS EVENTS_PER_APPEND SECONDS`
`python -m benchmarks.load fill ADDRESS CLIENTS EVENTS_PER_APPEND EVENTS`
`python -m benchmarks.load read ADDRESS SUBSCRIBERS EVENTS`
`python -m benchmarks.load prove ADDRESS PROOFS`
"""

import asyncio
import json
import random
import sys
import time
import uuid
from contextlib import closing
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from benchmarks.wire import Connection
from lineal import merkle
from lineal.api.lineage.v1.lineage_service_pb2 import (
    AppendEventsRequest,
    AppendEventsResponse,
    GetHeadRequest,
    GetHeadResponse,
    SubscribeRequest,
)
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.proof_service_pb2 import GetInclusionProofRequest, GetInclusionProofResponse
from lineal.channel import open_aio_channel
from lineal.notes import Checkpoint

PAYLOAD = b"x" * 100
_METADATA = (("x-lineal-actor", "person:benchmark"), ("x-lineal-correlation-id", str(uuid.uuid4())))
_APPEND = "/lineal.api.lineage.v1.LineageService/AppendEvents"
_HEAD = "/lineal.api.lineage.v1.LineageService/GetHead"
_PROOF = "/lineal.api.lineage.v1.ProofService/GetInclusionProof"
_DEADLINE_SECONDS = 30.0
_WARM_SECONDS = 1.0
# Events that are made before the clock starts, so that the server is measured and not the making.
_PREPARED_EVENTS = 700_000


def request(stream: str, size: int) -> AppendEventsRequest:
    """Return an append of so many events."""
    made = AppendEventsRequest(request_id=_uuid(), stream=stream, actor="person:benchmark")
    for _ in range(size):
        made.events.add(event_id=_uuid(), type="t.A", payload=PAYLOAD)
    return made


def _uuid() -> str:
    """Return a random UUID at a third of what the library takes, for which the server would have to wait."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def append(address: str, clients: int, size: int, seconds: float) -> dict[str, float]:
    """Append for some seconds; the rate of what was acknowledged, and how long answers took, in ms."""
    latencies: list[float] = []
    started = [0.0] * clients
    streams = [f"load/{n}-{uuid.uuid4()}" for n in range(clients)]
    requests = _PREPARED_EVENTS // (clients * size)
    prepared = [[request(stream, size).SerializeToString() for _ in range(requests)] for stream in streams]
    begin = time.perf_counter() + _WARM_SECONDS
    end = begin + seconds

    def write(n: int) -> None:
        body = prepared[n].pop() if prepared[n] else request(streams[n], size).SerializeToString()
        started[n] = time.perf_counter()
        connection.call(n, body)

    def answered(n: int, message: bytes) -> None:
        now = time.perf_counter()
        if len(AppendEventsResponse.FromString(message).events) != size:
            raise SystemExit(f"client {n} got an answer about other events than it sent")
        if begin <= now < end:
            latencies.append(now - started[n])
        if now < end:
            write(n)

    with closing(Connection(address, _APPEND, dict(_METADATA), answered)) as connection:
        for n in range(clients):
            write(n)
        connection.run()
    latencies.sort()
    return {"rate": len(latencies) * size / seconds, **_percentiles(latencies)}


async def fill(channel: grpc.aio.Channel, clients: int, size: int, events: int) -> dict[str, float]:
    """Append so many events in all."""
    stub: Any = LineageServiceStub(channel)
    start = time.perf_counter()
    left = iter(range(events // size))

    async def write(n: int) -> None:
        for _ in left:
            await stub.AppendEvents(request(f"fill/{n}", size), timeout=_DEADLINE_SECONDS, metadata=_METADATA)

    await asyncio.gather(*(write(n) for n in range(clients)))
    return {"rate": events // size * size / (time.perf_counter() - start)}


async def read(channel: grpc.aio.Channel, subscribers: int, events: int) -> dict[str, float]:
    """Read so many events by each subscriber; the rate of all of them."""
    stub: Any = LineageServiceStub(channel)
    start = time.perf_counter()

    async def follow() -> int:
        stream = stub.Subscribe(SubscribeRequest())
        count = 0
        async for response in stream:
            count += len(response.records)
            if response.examined_position >= events:
                break
        stream.cancel()
        return count

    counts = await asyncio.gather(*(follow() for _ in range(subscribers)))
    if any(count < events for count in counts):
        raise SystemExit(f"subscribers missed events: {counts} of {events}")
    return {"rate": sum(counts) / (time.perf_counter() - start)}


def prove(address: str, proofs: int) -> dict[str, float]:
    """Ask for inclusion proofs of events anywhere, one after the other, and check them; how long answers took, in ms.

    Between any two the head is asked for, a call that reads nothing: what the machine and the connection take.
    """
    heads: list[float] = []
    taken: list[float] = []
    answers: list[bytes] = []
    with (
        closing(Connection(address, _HEAD, dict(_METADATA), lambda _, answer: answers.append(answer))) as bare,
        closing(Connection(address, _PROOF, dict(_METADATA), lambda _, answer: answers.append(answer))) as asking,
    ):

        def timed(connection: Connection, number: int, message: Message) -> float:
            start = time.perf_counter()
            connection.call(number, message.SerializeToString())
            connection.run()
            return time.perf_counter() - start

        timed(bare, 0, GetHeadRequest())
        head = GetHeadResponse.FromString(answers.pop()).position
        anywhere = random.Random(head)
        positions = [anywhere.randint(1, head) for _ in range(proofs)]
        for number, position in enumerate(positions):
            heads.append(timed(bare, number, GetHeadRequest()))
            taken.append(timed(asking, number, GetInclusionProofRequest(position=position)))
    for position, answer in zip(positions, answers[1::2], strict=True):
        proof = GetInclusionProofResponse.FromString(answer)
        checkpoint = Checkpoint.parse(proof.checkpoint.split("\n\n")[0] + "\n")
        leaf = merkle.leaf_hash(proof.record)
        merkle.check_inclusion(leaf, position - 1, checkpoint.size, proof.path, checkpoint.root)
    bare_call = {f"bare {name}": value for name, value in _percentiles(sorted(heads)).items()}
    return _percentiles(sorted(taken)) | bare_call


def _percentiles(latencies: list[float]) -> dict[str, float]:
    return {f"p{p}": latencies[len(latencies) * p // 100] * 1000 for p in (50, 99)}


async def _with_channel(function: Any, address: str, *numbers: float) -> dict[str, float]:
    async with open_aio_channel(address) as channel:
        await channel.channel_ready()
        found: dict[str, float] = await function(channel, *numbers)
        return found


def _run(kind: str, address: str, *numbers: str) -> None:
    values = [float(number) if "." in number else int(number) for number in numbers]
    if kind == "append":
        found = append(address, int(values[0]), int(values[1]), values[2])
    elif kind == "prove":
        found = prove(address, int(values[0]))
    else:
        functions: dict[str, Any] = {"fill": fill, "read": read}
        found = asyncio.run(_with_channel(functions[kind], address, *values))
    print(json.dumps(found))


if __name__ == "__main__":
    _run(*sys.argv[1:])
