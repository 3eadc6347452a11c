"""What a prediction is asked for with, whichever protocol brought it."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from chassis.errors import FieldViolation, InvalidArgument
from chassis.ids import check_request_id
from lineal.api.tabular.v1.column_pb2 import Column
from tabular.columns import length

MOST_ROWS = 10_000
LABEL_KEY_SEPARATOR = "\x1f"


class RowsInvalid(InvalidArgument):
    """The columns of a request do not make rows."""


@dataclass(frozen=True)
class Request:
    """Rows to be scored.

    `columns` are named, all of `rows` values; `event_time_micros` has one per row, microseconds since 1970-01-01 UTC.
    """

    endpoint: str
    request_id: str
    routing_key: str
    columns: Mapping[str, Column]
    rows: int
    event_time_micros: npt.NDArray[np.int64]
    min_position: int = 0
    bundle_digest: str = ""


def make(
    *,
    endpoint: str,
    request_id: str,
    routing_key: str,
    columns: list[Column],
    event_time_micros: list[int],
    now: datetime,
    min_position: int = 0,
    bundle_digest: str = "",
) -> Request:
    """Check and complete a request: an id is made where there is none, times are spread over rows.

    Raises RowsInvalid, RequestIdInvalid.
    """
    rows = _rows(columns)
    if len(event_time_micros) not in (0, 1, rows):
        raise RowsInvalid(
            f"there are {rows} rows and {len(event_time_micros)} event times",
            [FieldViolation("event_time_micros", "give one for all rows, one per row, or none")],
        )
    times = event_time_micros or [int(now.timestamp() * 1_000_000)]
    return Request(
        endpoint=endpoint,
        request_id=check_request_id(request_id) if request_id else str(uuid.uuid4()),
        routing_key=routing_key,
        columns={column.name: column for column in columns},
        rows=rows,
        event_time_micros=np.broadcast_to(np.array(times, dtype=np.int64), (rows,)),
        min_position=min_position,
        bundle_digest=bundle_digest,
    )


def _rows(columns: list[Column]) -> int:
    if not columns:
        raise RowsInvalid(
            "the request has no columns", [FieldViolation("columns", "send one column per feature or key")]
        )
    lengths = {column.name: length(column) for column in columns}
    if len(lengths) < len(columns):
        raise RowsInvalid("a column is there twice", [FieldViolation("columns", "send each column once")])
    rows = next(iter(lengths.values()))
    violations = [
        FieldViolation(f"columns[{name}]", f"has {count} rows, {columns[0].name!r} has {rows}")
        for name, count in lengths.items()
        if count != rows
    ]
    if violations:
        raise RowsInvalid("the columns differ in length", violations)
    if not 0 < rows <= MOST_ROWS:
        raise RowsInvalid(
            f"the request has {rows} rows", [FieldViolation("columns", f"send 1 to {MOST_ROWS:,} rows at a time")]
        )
    return rows
