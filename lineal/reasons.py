"""Why a prediction has its score, and what would have changed it: what was scored comes from its record."""

from typing import Any, Literal

from lineal.api.features.v1.parity_pb2 import FeatureValue
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.tabular.v1.column_pb2 import Column
from lineal.calls import Services
from lineal.errors import LinealError
from lineal.trace import served

# A search scores as many rows as its contract says, beside predictions.
_SEARCH_SECONDS = 60.0


def explained(services: Services, prediction_id: str) -> serving_api.ExplainResponse:
    """Return how much each column moved a recorded prediction's score, as it was served, and the reasons to tell.

    Raises CallFailed when the prediction is unknown, or its bundle no longer has an arm on the endpoint, LinealError
    when no model has answered.
    """
    asked = serving_api.ExplainRequest(**_recorded(services, prediction_id))
    explanation: serving_api.ExplainResponse = services.serving.call("Explain", asked)
    return explanation


def counterfactuals(services: Services, prediction_id: str, most: int = 0) -> serving_api.FindCounterfactualsResponse:
    """Return what would have changed a recorded decision; at most so many answers, 0 is the usual number.

    Raises CallFailed as `explained`, and when the model has no reviewed explanations.
    """
    asked = serving_api.FindCounterfactualsRequest(**_recorded(services, prediction_id), most=most)
    found: serving_api.FindCounterfactualsResponse = services.serving.call(
        "FindCounterfactuals", asked, timeout=_SEARCH_SECONDS
    )
    return found


def value(change: serving_api.ColumnChange, side: Literal["old", "new"]) -> float | str | None:
    """Return what a change replaces or brings; None is null."""
    name = change.WhichOneof(side)
    found: float | str | None = getattr(change, name) if name else None
    return found


def _recorded(services: Services, prediction_id: str) -> dict[str, Any]:
    """Return the fields of a request that brings what a recorded prediction had, what its transforms took included."""
    request = monitor_api.GetPredictionRequest(prediction_id=prediction_id)
    found = services.monitor.call("GetPrediction", request)
    record = found.prediction
    if record.fallback_cause:
        raise LinealError(f"the endpoint's fallback has answered ({record.fallback_cause}); no model has scored this")
    columns = {value.column: _taken(value) for value in record.inputs}
    for name, value in served(found).items():
        columns[name] = column = Column(name=name)
        if isinstance(value, str):
            column.strings.values.append(value)
        else:
            column.doubles.values.append(float("nan") if value is None else value)
    return {
        "endpoint": record.endpoint,
        "bundle_digest": record.bundle_digest,
        "columns": list(columns.values()),
        "event_time_micros": [record.event_time_micros],
    }


def _taken(value: FeatureValue) -> Column:
    column = Column(name=value.column)
    match value.WhichOneof("value"):
        case "text":
            column.strings.values.append(value.text)
        case "time_micros":
            column.timestamps.micros.append(value.time_micros)
        case "number":
            column.doubles.values.append(value.number)
        case None:
            column.null_rows.append(0)
    return column
