"""A client that sends rows to ingest in one stream and reads the quarantine back, in a process of its own; prints JSON.

`python -m benchmarks.ingest_load good|spoilt ADDRESS DATASET ROWS`
"""

import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks import readings
from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.api.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from lineal.channel import open_channel
from lineal.frames import ipc

_BATCH_ROWS = 20_000
_PAGE = 1_000
_SECONDS = 1_800.0


def _run(kind: str, address: str, name: str, rows: int) -> dict[str, Any]:
    # Made before the clock starts, so that making rows is not measured.
    batches: dict[str, bytes] = {}
    faults: dict[tuple[str, int], readings.Fault] = {}
    for first in range(0, rows, _BATCH_ROWS):
        size, batch = min(_BATCH_ROWS, rows - first), f"b{first:09d}"
        if kind == "good":
            table = readings.good(first, size)
        else:
            table, found = readings.spoilt(first, size)
            faults |= {(batch, row): fault for row, fault in found.items()}
        batches[batch] = ipc(table)
    with open_channel(address) as channel:
        stub: Any = IngestServiceStub(channel)
        request = api.RegisterDatasetRequest(request_id=str(uuid.uuid4()), dataset=readings.dataset(name))
        stub.RegisterDataset(request)
        begin = time.perf_counter()
        answers = list(stub.IngestBatches(_requests(name, batches), timeout=_SECONDS))
        seconds = time.perf_counter() - begin
        position = max(answer.position for answer in answers)
        known = stub.GetDataset(api.GetDatasetRequest(name=name, min_position=position))
        begin = time.perf_counter()
        listed = _judged(_quarantine(stub, name, position), faults)
        return {
            "rate": rows / seconds,
            "batch_bytes": max(map(len, batches.values())),
            "bad": Counter(fault.name for fault in faults.values()),
            "accepted": sum(answer.accepted_rows for answer in answers),
            "quarantined": sum(answer.quarantined_rows for answer in answers),
            "known_accepted": known.accepted_rows,
            "known_quarantined": known.quarantined_rows,
            "listing_seconds": time.perf_counter() - begin,
            **listed,
        }


def _requests(name: str, batches: dict[str, bytes]) -> Iterator[api.IngestBatchesRequest]:
    for batch, data in batches.items():
        yield api.IngestBatchesRequest(dataset=name, batch_id=batch, arrow=data)


def _quarantine(stub: Any, name: str, position: int) -> Iterator[api.QuarantinedRow]:
    token = ""
    while True:
        request = api.ListQuarantinedRowsRequest(dataset=name, page_size=_PAGE, page_token=token, min_position=position)
        page = stub.ListQuarantinedRows(request)
        yield from page.rows
        token = page.next_page_token
        if not token:
            return


def _judged(rows: Iterator[api.QuarantinedRow], faults: dict[tuple[str, int], readings.Fault]) -> dict[str, Any]:
    """Compare each listed row with what is wrong with it: the one right reason and no other."""
    left = dict(faults)
    right: Counter[str] = Counter()
    unexpected, wrong, example = 0, 0, ""
    for row in rows:
        fault = left.pop((row.batch_id, row.row), None)
        reasons = [(reason.field, reason.message) for reason in row.reasons]
        if fault is None:
            unexpected += 1
            example = example or f"row {row.row} of {row.batch_id} was good or came twice: {reasons}"
        elif reasons != [(fault.field, fault.message)]:
            wrong += 1
            example = example or f"{fault.name}: {reasons}"
        else:
            right[fault.name] += 1
    return {"right": right, "unexpected": unexpected, "wrong": wrong, "missing": len(left), "example": example}


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
