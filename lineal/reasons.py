"""Why a prediction has its score: what was scored comes from its record, contributions and reasons from serving."""

from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.tabular.v1.column_pb2 import Column
from lineal.calls import Services
from lineal.trace import served


def explained(services: Services, prediction_id: str) -> serving_api.ExplainResponse:
    """Return how much each column moved a recorded prediction's score, as it was served, and the reasons to tell.

    Raises CallFailed when the prediction is unknown, or when its bundle no longer has an arm on the endpoint.
    """
    request = monitor_api.GetPredictionRequest(prediction_id=prediction_id)
    found = services.monitor.call("GetPrediction", request)
    columns = []
    for name, value in served(found).items():
        column = Column(name=name)
        if isinstance(value, str):
            column.strings.values.append(value)
        else:
            column.doubles.values.append(float("nan") if value is None else value)
        columns.append(column)
    record = found.prediction
    asked = serving_api.ExplainRequest(endpoint=record.endpoint, bundle_digest=record.bundle_digest, columns=columns)
    explanation: serving_api.ExplainResponse = services.serving.call("Explain", asked)
    return explanation
