"""The quarantine, as the SDK has it: list refused rows, fix them, release them as they are, or discard them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.ingest.v1 import quarantine_service_pb2 as api
from lineal.calls import Services, new_request_id
from lineal.frames import as_table, ipc

_PAGE = 1000


@dataclass(frozen=True)
class QuarantinedRow:
    """A refused row: `reasons` says by field what is wrong, `values` is the row as it was understood."""

    batch_id: str
    row: int
    reasons: dict[str, str]
    values: dict[str, Any]


@dataclass(frozen=True)
class Settled:
    """What became of rows: `batch_id` is the batch that they were accepted in, empty for discarded ones."""

    rows: int
    batch_id: str
    position: int


class Quarantine:
    """`client.quarantine`. All methods raise CallFailed."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def rows(self, dataset: str, *, batch_id: str = "", min_position: int = 0) -> Iterator[QuarantinedRow]:
        """Yield the rows that are not settled, newest batch first; of one batch where it is named."""
        token = ""
        while True:
            request = ingest_api.ListQuarantinedRowsRequest(
                dataset=dataset, page_size=_PAGE, page_token=token, min_position=min_position
            )
            page = self._services.ingest.call("ListQuarantinedRows", request)
            for row in page.rows:
                if batch_id in ("", row.batch_id):
                    reasons = {reason.field: reason.message for reason in row.reasons}
                    yield QuarantinedRow(row.batch_id, row.row, reasons, json.loads(row.row_json))
            token = page.next_page_token
            if not token:
                return

    def fix(
        self, dataset: str, batch_id: str, rows: Sequence[int], values: "pd.DataFrame | pa.Table", *, reason: str
    ) -> Settled:
        """Replace values of quarantined rows and accept these; refused again, none of them is accepted.

        `values` has one row for each of `rows`, with only the columns to replace.
        """
        request = api.FixRowsRequest(
            request_id=new_request_id(),
            dataset=dataset,
            batch_id=batch_id,
            rows=rows,
            arrow=ipc(as_table(values)),
            reason=reason,
        )
        done = self._services.quarantine.call("FixRows", request)
        return Settled(done.accepted_rows, done.accepted_batch_id, done.position)

    def release(self, dataset: str, batch_id: str, rows: Sequence[int] = (), *, reason: str) -> Settled:
        """Accept quarantined rows as they are; all of the batch that are not settled where none is named."""
        request = api.ReleaseRowsRequest(
            request_id=new_request_id(), dataset=dataset, batch_id=batch_id, rows=rows, reason=reason
        )
        done = self._services.quarantine.call("ReleaseRows", request)
        return Settled(done.accepted_rows, done.accepted_batch_id, done.position)

    def discard(self, dataset: str, batch_id: str, rows: Sequence[int] = (), *, reason: str) -> Settled:
        """Give quarantined rows up; all of the batch that are not settled where none is named."""
        request = api.DiscardRowsRequest(
            request_id=new_request_id(), dataset=dataset, batch_id=batch_id, rows=rows, reason=reason
        )
        done = self._services.quarantine.call("DiscardRows", request)
        return Settled(done.discarded_rows, "", done.position)
