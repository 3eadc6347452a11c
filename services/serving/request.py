"""What a prediction is asked for with, whichever protocol brought it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy.typing as npt

from chassis.errors import FieldViolation, InvalidArgument
from chassis.ids import check_request_id, new_request_id
from lineal.api.tabular.v1.column_pb2 import Column
from tabular.columns import from_numpy, to_numpy

LABEL_KEY_SEPARATOR = "\x1f"


class RowsInvalid(InvalidArgument):
    """The columns of a request do not make rows."""


@dataclass(frozen=True)
class Request:
    """Rows to be scored.

    `columns` are arrays as `tabular.columns.to_numpy` makes them, by name, all of `rows` values; `event_time_micros`
    has one per row, microseconds since 1970-01-01 UTC. `sent` are the columns as they came, where they came as such.
    """

    endpoint: str
    request_id: str
    routing_key: str
    columns: Mapping[str, npt.NDArray[Any]]
    rows: int
    event_time_micros: Sequence[int]
    min_position: int = 0
    bundle_digest: str = ""
    sent: Mapping[str, Column] = field(default_factory=dict)

    def prediction_ids(self) -> list[str]:
        """Return the id of each row's prediction."""
        request_id = self.request_id
        return [f"{request_id}/{row}" for row in range(self.rows)]

    def column(self, name: str) -> Column:
        """Return a column as other services take it."""
        return self.sent[name] if name in self.sent else from_numpy(name, self.columns[name])


def make(
    *,
    endpoint: str,
    request_id: str,
    routing_key: str,
    columns: Mapping[str, npt.NDArray[Any]],
    event_time_micros: Sequence[int],
    now: datetime,
    min_position: int = 0,
    bundle_digest: str = "",
    sent: Mapping[str, Column] | None = None,
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
        request_id=check_request_id(request_id) if request_id else new_request_id(),
        routing_key=routing_key,
        columns=columns,
        rows=rows,
        event_time_micros=times if len(times) == rows else list(times) * rows,
        min_position=min_position,
        bundle_digest=bundle_digest,
        sent=sent or {},
    )


def by_name(columns: Sequence[Column]) -> dict[str, Column]:
    """Return columns by their names. Raises RowsInvalid when one is there twice."""
    named = {column.name: column for column in columns}
    if len(named) < len(columns):
        raise RowsInvalid("a column is there twice", [FieldViolation("columns", "send each column once")])
    return named


def decoded(columns: Mapping[str, Column]) -> dict[str, npt.NDArray[Any]]:
    """Return columns as arrays. Raises RowsInvalid when a null row lies outside of its column."""
    try:
        return {name: to_numpy(column) for name, column in columns.items()}
    except ValueError as error:
        raise RowsInvalid(str(error), [FieldViolation("columns", str(error))]) from error


def _rows(columns: Mapping[str, npt.NDArray[Any]]) -> int:
    if not columns:
        raise RowsInvalid(
            "the request has no columns", [FieldViolation("columns", "send one column per feature or key")]
        )
    first = next(iter(columns))
    rows = len(columns[first])
    violations = [
        FieldViolation(f"columns[{name}]", f"has {len(values)} rows, {first!r} has {rows}")
        for name, values in columns.items()
        if len(values) != rows
    ]
    if violations:
        raise RowsInvalid("the columns differ in length", violations)
    if not rows:
        raise RowsInvalid("the request has no rows", [FieldViolation("columns", "send at least one row")])
    return rows
