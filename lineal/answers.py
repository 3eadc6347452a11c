"""Answers of services as frames."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.tabular.v1.flags_pb2 import GuardState, RowFlags

_COLUMNS = ("prediction_id", "score", "decision", "arm", "bundle_digest", "generation", "trace_id", "flags")


def answers_frame(responses: Sequence[serving_api.PredictResponse]) -> pd.DataFrame:
    """Return one row per prediction of several answers; of several classes with the name of the one decided for.

    `flags` says what is unusual about a row, empty where nothing is and None where that is not known.
    """
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    if any(response.classes for response in responses):
        rows["class"] = []
    for response in responses:
        count = len(response.prediction_ids)
        rows["prediction_id"] += response.prediction_ids
        rows["score"] += response.scores
        rows["decision"] += list(response.decisions) or [None] * count
        if "class" in rows:
            rows["class"] += [response.classes[n] for n in response.decisions] if response.classes else [None] * count
        for name in ("arm", "bundle_digest", "generation", "trace_id"):
            rows[name] += [getattr(response, name)] * count
        flags = {each.row: flags_text(each) for each in response.flags}
        usual = "" if response.guard == GuardState.GUARD_STATE_CHECKED else None
        rows["flags"] += [flags.get(row, usual) for row in range(count)]
    return pd.DataFrame(rows)


def flags_text(flags: RowFlags) -> str:
    """Return what is unusual about a row in words."""
    said = [f"{name} out of range" for name in flags.out_of_range]
    said += [f"{name} unseen" for name in flags.unseen]
    return ", ".join(said + ["out of distribution"] * flags.out_of_distribution)


def column_values(column: Any) -> list[Any]:
    """Return the values of a column, None where null."""
    kind = column.WhichOneof("values")
    if kind is None:
        return [None] * len(column.null_rows)
    values = list(getattr(column, kind).micros if kind == "timestamps" else getattr(column, kind).values)
    for row in column.null_rows:
        values[row] = None
    return values
