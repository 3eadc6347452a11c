"""Readings of made-up electricity meters as an ingest benchmark sends them, and what is wrong with the bad ones."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from lineal.api.ingest.v1.rules_pb2 import Comparison, Operator, Rule, Severity

_START = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_SECOND = 1_000_000
_REGIONS = ("north", "east", "south", "west", "centre")
_METERS = 20_000
_MOST_KWH = 500.0
_TIME = pa.timestamp("us", tz="UTC")
# Every tenth row is bad, counted from here: the row before a duplicate is a good one.
_FIRST_BAD, _EVERY = 9, 10


@dataclass(frozen=True)
class Fault:
    """A way to be bad: the column that gets a value, and the one reason that is right: its field and its message."""

    name: str
    column: str
    value: Any
    field: str
    message: str


FAULTS = (
    Fault("wrong type", "phases", "three", "phases", "must be a whole number, not 'three'"),
    Fault("missing", "meter", None, "meter", "must not be null"),
    Fault("too low", "kwh", -1.0, "kwh", "must be at least 0"),
    Fault("too high", "kwh", _MOST_KWH + 0.5, "kwh", "must be at most 500"),
    Fault("not in the set", "region", "moon", "region", f"must be one of {', '.join(_REGIONS)}"),
    Fault("pattern", "meter", "M-12x", "meter", r"must match M-\d{6}"),
    Fault("cross-field", "ended", None, "ended,started", "ends-after-start: ended must be greater than started"),
    Fault(
        "duplicate key",
        "reading",
        None,
        "reading",
        "the row key is in the batch already; the first such row counts",
    ),
    Fault("infinite", "kwh", float("inf"), "kwh", "must be a finite number"),
    Fault(
        "unreadable time",
        "started",
        "yesterday",
        "started",
        "must be a time with its zone, such as 2024-05-01T12:00:00Z, not 'yesterday'",
    ),
)


def dataset(name: str) -> Dataset:
    """Return the declaration: ranges, a set, a pattern, a rule over two fields, and a row key."""
    kind = FieldType
    return Dataset(
        name=name,
        description="A reading of an electricity meter.",
        owner="benchmark",
        fields=[
            Field(name="reading", type=kind.FIELD_TYPE_STRING),
            Field(name="meter", type=kind.FIELD_TYPE_STRING, pattern=r"M-\d{6}"),
            Field(name="region", type=kind.FIELD_TYPE_STRING, allowed=_REGIONS),
            Field(name="phases", type=kind.FIELD_TYPE_INT64, minimum=1, maximum=3),
            Field(name="kwh", type=kind.FIELD_TYPE_FLOAT64, minimum=0, maximum=_MOST_KWH),
            Field(name="estimated", type=kind.FIELD_TYPE_BOOL, nullable=True),
            Field(name="started", type=kind.FIELD_TYPE_TIMESTAMP),
            Field(name="ended", type=kind.FIELD_TYPE_TIMESTAMP),
        ],
        row_key=["reading"],
        entity_keys=["meter"],
        event_time="started",
        rules=[
            Rule(
                name="ends-after-start",
                severity=Severity.SEVERITY_REJECT,
                compare=Comparison(column="ended", operator=Operator.OPERATOR_GREATER, other_column="started"),
            )
        ],
    )


def good(first: int, rows: int) -> pa.Table:
    """Return rows that hold every rule, in their declared types."""
    number = np.arange(first, first + rows)
    rng = np.random.default_rng(first)
    started = _START + number * _SECOND
    ended = started + rng.integers(60, 3_600, rows) * _SECOND
    return pa.table(
        {
            "reading": [f"r{n:09d}" for n in number.tolist()],
            "meter": [f"M-{n:06d}" for n in rng.integers(0, _METERS, rows).tolist()],
            "region": np.array(_REGIONS)[rng.integers(0, len(_REGIONS), rows)].tolist(),
            "phases": pa.array(rng.integers(1, 4, rows)),
            "kwh": pa.array(np.round(rng.uniform(0.0, _MOST_KWH, rows), 3)),
            "estimated": pa.array(rng.random(rows) < 0.05, mask=rng.random(rows) < 0.1),
            "started": pa.array(started).cast(_TIME),
            "ended": pa.array(ended).cast(_TIME),
        }
    )


def spoilt(first: int, rows: int) -> tuple[pa.Table, dict[int, Fault]]:
    """Return rows of which every tenth is bad, each of one kind in turn, and by row what is wrong with it.

    Columns with values of a wrong type go as text, as the SDK sends them.
    """
    table = good(first, rows)
    columns = {name: table[name].to_pylist() for name in ("reading", "meter", "region", "kwh", "ended")}
    columns["phases"] = table["phases"].cast(pa.string()).to_pylist()
    columns["started"] = [
        f"{text}Z" for text in table["started"].cast(pa.timestamp("us")).cast(pa.string()).to_pylist()
    ]
    faults = {row: FAULTS[n % len(FAULTS)] for n, row in enumerate(range(_FIRST_BAD, rows, _EVERY))}
    begun = table["started"]
    for row, fault in faults.items():
        value = fault.value
        if fault.name == "cross-field":
            value = begun[row].as_py()
        elif fault.name == "duplicate key":
            value = columns["reading"][row - 1]
        columns[fault.column][row] = value
    for name, values in columns.items():
        kind = pa.string() if name == "started" or name == "phases" else table.schema.field(name).type
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))
    return table, faults
