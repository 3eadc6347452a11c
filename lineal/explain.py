"""The accepted rows behind the features of one entity: what features finds, put together view by view."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lineal.api.features.v1 import features_service_pb2 as api
from lineal.api.features.v1.features_service_pb2 import FieldStatus
from lineal.api.tabular.v1.column_pb2 import Column
from lineal.calls import Services

_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Row:
    """An accepted row and where it lies: batch, log position of the batch, number among its accepted rows."""

    batch_id: str
    batch_position: int
    row: int
    values: dict[str, Any]


@dataclass(frozen=True)
class View:
    """One view of a feature set for one entity: values and statuses by feature column, rows in log order."""

    view: str
    version: str
    position: int
    feature_set_position: int
    dataset: str
    key: Mapping[str, str]
    values: Mapping[str, float | str | None]
    statuses: Mapping[str, str]
    as_of: int
    rows: list[Row] = field(default_factory=list)


def explain(
    services: Services,
    feature_set: str,
    version: str,
    entities: Mapping[str, str],
    cutoff_micros: int,
    position: int = 0,
) -> list[View]:
    """Return each view of a feature set with the rows that make its features at a cut-off. Raises CallFailed.

    `entities` are texts by column of the spine; `position` is the log position as of which rows count, 0 is now.
    """
    request = api.ExplainFeaturesRequest(
        feature_set=feature_set,
        feature_set_version=version,
        entities=entities,
        cutoff_micros=cutoff_micros,
        position=position,
    )
    found: list[View] = []
    for part in services.features.collect("ExplainFeatures", request, timeout=_TIMEOUT_SECONDS):
        if part.columns:
            found.append(_view(part))
        found[-1].rows.extend(
            Row(row.batch_id, row.batch_position, row.row, json.loads(row.row_json)) for row in part.rows
        )
    return found


def differences(
    views: Sequence[View], served: Mapping[str, float | str | None], given: Sequence[str] = ()
) -> Iterator[tuple[str, float | str | None, float | str | None]]:
    """Yield the column, the served and the computed value where they differ: by more than 1e-9, relatively.

    `served` are the values by column as they were scored, `given` the columns that the request brought itself.
    """
    for view in views:
        for column, value in view.values.items():
            if column in served and column not in given and not same(served[column], value):
                yield column, served[column], value


def same(one: float | str | None, other: float | str | None) -> bool:
    """Tell whether two values of a feature are the same: texts exactly, numbers to 1e-9 relatively; None is null."""
    if isinstance(one, str) or isinstance(other, str):
        return (one or "") == (other or "")
    if _null(one) or _null(other):
        return _null(one) and _null(other)
    assert one is not None
    assert other is not None
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def _null(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _view(part: api.ExplainFeaturesResponse) -> View:
    names = [column.name for column in part.columns]
    statuses = [FieldStatus.Name(status).removeprefix("FIELD_STATUS_").lower() for status in part.statuses]
    return View(
        view=part.view,
        version=part.view_version,
        position=part.view_position,
        feature_set_position=part.feature_set_position,
        dataset=part.dataset,
        key=dict(part.key),
        values={column.name: _only(column) for column in part.columns},
        statuses=dict(zip(names, statuses, strict=True)),
        as_of=part.position,
    )


def _only(column: Column) -> float | str | None:
    if column.null_rows:
        return None
    values: Sequence[float | str] = getattr(column, str(column.WhichOneof("values"))).values
    return values[0]
