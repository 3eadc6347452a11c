"""Clients that append or read as fast as they are answered, in a process of their own; prints JSON.

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
from typing import Any

import grpc.aio

from lineal.api.lineage.v1.lineage_service_pb2 import AppendEventsRequest, GetHeadRequest, SubscribeRequest
from lineal.api.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from lineal.api.lineage.v1.proof_service_pb2 import GetInclusionProofRequest
from lineal.api.lineage.v1.proof_service_pb2_grpc import ProofServiceStub
from lineal.channel import open_aio_channel

PAYLOAD = b"x" * 100
_METADATA = (("x-lineal-actor", "person:benchmark"), ("x-lineal-correlation-id", str(uuid.uuid4())))
_DEADLINE_SECONDS = 30.0
_WARM_SECONDS = 1.0


def request(stream: str, size: int) -> AppendEventsRequest:
    """Return an append of so many events."""
    made = AppendEventsRequest(request_id=str(uuid.uuid4()), stream=stream, actor="person:benchmark")
    for _ in range(size):
        made.events.add(event_id=str(uuid.uuid4()), type="t.A", payload=PAYLOAD)
    return made


async def append(channel: grpc.aio.Channel, clients: int, size: int, seconds: float) -> dict[str, float]:
    """Append for some seconds; the rate of what was acknowledged, and how long answers took, in ms."""
    stub: Any = LineageServiceStub(channel)
    begin = time.perf_counter() + _WARM_SECONDS
    end = begin + seconds
    latencies: list[float] = []

    async def write(n: int) -> None:
        stream = f"load/{n}-{uuid.uuid4()}"
        while (start := time.perf_counter()) < end:
            await stub.AppendEvents(request(stream, size), timeout=_DEADLINE_SECONDS, metadata=_METADATA)
            if begin <= (now := time.perf_counter()) < end:
                latencies.append(now - start)

    await asyncio.gather(*(write(n) for n in range(clients)))
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


async def prove(channel: grpc.aio.Channel, proofs: int) -> dict[str, float]:
    """Ask for inclusion proofs of events anywhere, one after the other; how long answers took, in ms."""
    head = (await LineageServiceStub(channel).GetHead(GetHeadRequest())).position
    stub: Any = ProofServiceStub(channel)
    anywhere = random.Random(head)
    latencies = []
    for _ in range(proofs):
        position = anywhere.randint(1, head)
        start = time.perf_counter()
        await stub.GetInclusionProof(GetInclusionProofRequest(position=position), timeout=_DEADLINE_SECONDS)
        latencies.append(time.perf_counter() - start)
    return _percentiles(sorted(latencies))


def _percentiles(latencies: list[float]) -> dict[str, float]:
    return {f"p{p}": latencies[len(latencies) * p // 100] * 1000 for p in (50, 99)}


async def _run(kind: str, address: str, *numbers: str) -> None:
    functions: dict[str, Any] = {"append": append, "fill": fill, "read": read, "prove": prove}
    values = [float(number) if "." in number else int(number) for number in numbers]
    async with open_aio_channel(address) as channel:
        await channel.channel_ready()
        print(json.dumps(await functions[kind](channel, *values)))


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
