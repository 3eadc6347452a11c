"""Send rows to a dataset in batches, and tell what became of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from lineal.api.ingest.v1 import ingest_service_pb2 as api
from lineal.calls import Service
from lineal.frames import batches


@dataclass(frozen=True)
class Ingested:
    """What became of rows, all batches together.

    `reasons` names why rows were quarantined, `warnings` what rules of severity WARN and checks found, with counts.
    """

    accepted: int
    quarantined: int
    reasons: dict[str, int]
    position: int
    repeated: bool
    warned: int = 0
    warnings: dict[str, int] = field(default_factory=dict)


def send(
    service: Service, dataset: str, table: pa.Table, name: str, progress: Callable[[int], None] | None = None
) -> Ingested:
    """Send a table as the batches `name`, `name-2` and so on.

    What was acknowledged before a break is not sent again. Raises CallFailed.
    """
    parts = [
        api.IngestBatchesRequest(dataset=dataset, batch_id=name if number == 1 else f"{name}-{number}", arrow=data)
        for number, data in enumerate(batches(table), start=1)
    ]
    acknowledged: list[api.IngestBatchesResponse] = []

    def attempt(left: float) -> None:
        for response in service.stub.IngestBatches(iter(parts[len(acknowledged) :]), timeout=left):
            acknowledged.append(response)
            if progress:
                progress(response.accepted_rows + response.quarantined_rows)

    if parts:
        service.patiently(attempt, max(service.deadline_seconds, 2.0 * len(parts)))
    return _together(acknowledged)


def _together(acknowledged: Sequence[api.IngestBatchesResponse]) -> Ingested:
    reasons: dict[str, int] = {}
    warnings: dict[str, int] = {}
    for response in acknowledged:
        for reason in response.reasons:
            text = f"{reason.field}: {reason.message}"
            reasons[text] = reasons.get(text, 0) + reason.rows
        for finding in response.findings:
            warnings[finding.message] = warnings.get(finding.message, 0) + finding.rows
    return Ingested(
        accepted=sum(response.accepted_rows for response in acknowledged),
        quarantined=sum(response.quarantined_rows for response in acknowledged),
        reasons=reasons,
        position=max((response.position for response in acknowledged), default=0),
        repeated=bool(acknowledged) and all(response.repeated_request for response in acknowledged),
        warned=sum(response.warned_rows for response in acknowledged),
        warnings=warnings,
    )
