"""Clients of online features, in a process of their own; prints JSON.

`fill` declares everything and sends the first rows; `stream` sends those after, so many a second, and reads each back;
`grpc` and `http` read for some seconds as fast as they are answered, `moved` does at cut-offs anywhere in the two days
before. TAILS is a file with a line per tail number.

`python -m benchmarks.online_load fill INGEST FEATURES ROWS`
`python -m benchmarks.online_load stream INGEST FEATURES FIRST ROWS RATE`
`python -m benchmarks.online_load grpc|http|moved ADDRESS TAILS CUTOFF VERSION CLIENTS ENTITIES SECONDS`
"""

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import landings
from benchmarks.closed_loop import ClosedLoop, percentiles
from benchmarks.http_wire import Connections
from benchmarks.wire import Connection
from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.features.v1.features_service_pb2_grpc import FeaturesServiceStub
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from lineal.channel import open_aio_channel
from lineal.frames import ipc

GET = "/lineal.api.features.v1.FeaturesService/GetOnlineFeatures"
_BATCH_ROWS = 20_000
_STREAM_ROWS = 50
_REQUESTS = 2_000
_SECONDS = 600.0
_MOVED_MICROS = 2 * 24 * 3600 * 1_000_000
_METADATA = (("x-lineal-actor", "person:benchmark"), ("x-lineal-correlation-id", str(uuid.uuid4())))


def asked(
    tails: list[str], cutoffs: list[int], position: int = 0, version: str = ""
) -> features_api.GetOnlineFeaturesRequest:
    """Return the question for the ten features of some tails; serving names the version that a model was trained on."""
    request = features_api.GetOnlineFeaturesRequest(
        feature_set=landings.FEATURE_SET, feature_set_version=version, cutoff_micros=cutoffs, min_position=position
    )
    request.entities.add(name="tailnum").strings.values.extend(tails)
    return request


async def fill(ingest: str, features: str, rows: int) -> dict[str, Any]:
    """Declare everything and send the first rows; return once they are online, with the tails and the last instant."""
    table = landings.landings().slice(0, rows)
    async with open_aio_channel(ingest) as to_ingest, open_aio_channel(features) as to_features:
        receiver: Any = IngestServiceStub(to_ingest)
        store: Any = FeaturesServiceStub(to_features)
        for dataset in landings.datasets():
            request = ingest_api.RegisterDatasetRequest(request_id=str(uuid.uuid4()), dataset=dataset)
            await receiver.RegisterDataset(request)
        for view in landings.views():
            view_request = features_api.RegisterFeatureViewRequest(request_id=str(uuid.uuid4()), feature_view=view)
            declared = await store.RegisterFeatureView(view_request)
        set_request = features_api.RegisterFeatureSetRequest(
            request_id=str(uuid.uuid4()), feature_set=landings.feature_set(), min_position=declared.position
        )
        await store.RegisterFeatureSet(set_request)
        requests = [
            ingest_api.IngestBatchesRequest(
                dataset=landings.DATASET, batch_id=f"fill-{first}", arrow=ipc(table.slice(first, _BATCH_ROWS))
            )
            for first in range(0, rows, _BATCH_ROWS)
        ]
        position = 0
        async for answer in receiver.IngestBatches(iter(requests), timeout=_SECONDS):
            position = answer.position
        tails = sorted(set(table["tailnum"].to_pylist()))
        cutoff = landings.micros(table["available_time"])[-1]
        found = await store.GetOnlineFeatures(asked(tails, [cutoff], position), timeout=_SECONDS)
    columns = {column.name: list(column.doubles.values) for column in found.columns}
    return {"tails": tails, "cutoff": cutoff, "columns": columns, "version": found.feature_set_version}


async def stream(ingest: str, features: str, first: int, rows: int, rate: int) -> dict[str, Any]:
    """Send rows at a rate; for each, how long from its acknowledgement until an answer had counted it, in ms.

    The question names the batch's log position, so it is answered as soon as features has applied it. A landing that
    is counted is the tail's latest at its own instant: nothing passed since.
    """
    table = landings.landings().slice(first, rows)
    tails, times = table["tailnum"].to_pylist(), landings.micros(table["event_time"])
    parts = range(0, rows, _STREAM_ROWS)
    bodies = [ipc(table.slice(part, _STREAM_ROWS)) for part in parts]
    latencies: list[float] = []
    late: list[float] = []
    invisible = 0
    async with open_aio_channel(ingest) as to_ingest, open_aio_channel(features) as to_features:
        receiver: Any = IngestServiceStub(to_ingest)
        store: Any = FeaturesServiceStub(to_features)
        await to_features.channel_ready()
        begin = time.perf_counter()

        async def paced() -> AsyncIterator[ingest_api.IngestBatchesRequest]:
            for part, body in zip(parts, bodies, strict=True):
                left = begin + part / rate - time.perf_counter()
                await asyncio.sleep(max(0.0, left))
                late.append(-min(0.0, left))
                yield ingest_api.IngestBatchesRequest(dataset=landings.DATASET, batch_id=f"row-{part}", arrow=body)

        async def read(part: int, position: int, accepted: float) -> None:
            nonlocal invisible
            mine = slice(part, part + _STREAM_ROWS)
            request = asked(tails[mine], times[mine], position)
            found = await store.GetOnlineFeatures(request, timeout=_SECONDS, metadata=_METADATA)
            elapsed = (time.perf_counter() - accepted) * 1000
            (since,) = (column for column in found.columns if column.name.endswith("since_last"))
            latencies.extend([elapsed] * len(since.doubles.values))
            invisible += sum(value != 0.0 for value in since.doubles.values)

        async with asyncio.TaskGroup() as reads:
            async for answer in receiver.IngestBatches(paced(), timeout=_SECONDS, metadata=_METADATA):
                accepted = time.perf_counter()
                reads.create_task(read(int(answer.batch_id.removeprefix("row-")), answer.position, accepted))
            seconds = accepted - begin
    return {
        "rate": rows / seconds,
        "rows": len(latencies),
        "invisible": invisible,
        "late": max(late) * 1000,
        **percentiles(latencies),
    }


def grpc_reads(address: str, bodies: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Read through gRPC."""
    loop = ClosedLoop(bodies, clients, seconds)
    with closing(Connection(address, GET, dict(_METADATA), loop.answered)) as connection:
        return loop.run(connection.call, connection.run)


def http_reads(address: str, bodies: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Read from Feast's feature server."""
    loop = ClosedLoop(bodies, clients, seconds)
    with closing(Connections(address, "/get-online-features", clients, loop.answered)) as connections:
        return loop.run(connections.call, connections.run)


def _bodies(kind: str, tails: list[str], cutoff: int, version: str, entities: int) -> list[bytes]:
    anywhere = random.Random(entities)
    picked = [anywhere.sample(tails, entities) for _ in range(_REQUESTS)]
    if kind != "http":
        back = _MOVED_MICROS if kind == "moved" else 1
        return [
            asked(some, [cutoff - anywhere.randrange(back)], version=version).SerializeToString() for some in picked
        ]
    return [json.dumps({"feature_service": "tail", "entities": {"tailnum": some}}).encode() for some in picked]


def _run(kind: str, *arguments: str) -> dict[str, Any]:
    match kind, arguments:
        case "fill", (ingest, features, rows):
            return asyncio.run(fill(ingest, features, int(rows)))
        case "stream", (ingest, features, first, rows, rate):
            return asyncio.run(stream(ingest, features, int(first), int(rows), int(rate)))
        case (("grpc" | "http" | "moved"), (address, tails, cutoff, version, clients, entities, seconds)):
            names = Path(tails).read_text(encoding="utf-8").split()
            bodies = _bodies(kind, names, int(cutoff), version, int(entities))
            reads = http_reads if kind == "http" else grpc_reads
            return reads(address, bodies, int(clients), float(seconds))
    raise SystemExit(__doc__)


if __name__ == "__main__":
    print(json.dumps(_run(*sys.argv[1:])))
