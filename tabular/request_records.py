"""The record of a whole request, by column, and the records of its predictions that it stands for."""

from collections.abc import Sequence
from typing import TypeVar

from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord, RequestRecord

T = TypeVar("T")


class RowsUneven(ValueError):
    """The columns of a request's record do not make rows."""


def expanded(whole: RequestRecord) -> list[PredictionRecord]:
    """Return the record of each row. Raises RowsUneven."""
    rows = len(whole.scores)
    entities = [(each.column, _one("entities", each.values[:], rows) or [""] * rows) for each in whole.entities]
    flags = {each.row: each for each in whole.flags}
    records = []
    for number, time, score, raw_score, decision, label_key, numeric, categorical, inputs, class_scores in zip(
        range(whole.first_row, whole.first_row + rows),
        _one("event_time_micros", whole.event_time_micros[:], rows) or [0] * rows,
        whole.scores[:],
        _one("raw_scores", whole.raw_scores[:], rows) or [0.0] * rows,
        _one("decisions", whole.decisions[:], rows) or [0] * rows,
        _one("label_keys", whole.label_keys[:], rows) or [""] * rows,
        _some("numeric_values", whole.numeric_values[:], rows),
        _some("categorical_values", whole.categorical_values[:], rows),
        _some("inputs", whole.inputs[:], rows),
        _some("class_scores", whole.class_scores[:], rows),
        strict=True,
    ):
        record = PredictionRecord(
            prediction_id=f"{whole.request_id}/{number}",
            event_time_micros=time,
            raw_score=raw_score,
            score=score,
            decision=decision,
            numeric_values=numeric,
            categorical_values=categorical,
            entities={column: values[number - whole.first_row] for column, values in entities},
            label_key=label_key,
            inputs=inputs,
            class_scores=class_scores,
            flags=flags.get(number),
        )
        record.MergeFrom(whole.common)
        records.append(record)
    return records


def _one(name: str, values: Sequence[T], rows: int) -> Sequence[T]:
    """Return values of which each row has one, or that no row has."""
    if len(values) not in (0, rows):
        raise RowsUneven(f"{name} has {len(values)} values for {rows} rows")
    return values


def _some(name: str, values: Sequence[T], rows: int) -> list[Sequence[T]]:
    """Cut values that lie row after row into those of each row, of which all have as many."""
    width, rest = divmod(len(values), rows) if rows else (0, len(values))
    if rest:
        raise RowsUneven(f"{name} has {len(values)} values for {rows} rows")
    return [values[row * width : (row + 1) * width] for row in range(rows)]
