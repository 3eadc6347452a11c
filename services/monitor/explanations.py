"""Why a recorded prediction has its score, as serving explains it."""

import grpc
import grpc.aio

from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.serving.v1.serving_service_pb2 import ExplainRequest, ExplainResponse
from lineal.api.serving.v1.serving_service_pb2_grpc import ServingServiceStub
from tabular.bundle import Bundle
from tabular.columns import from_doubles, from_texts

_CALL_SECONDS = 10.0


class Explanations:
    """Asks serving."""

    def __init__(self, serving: grpc.aio.Channel) -> None:
        self._serving = ServingServiceStub(serving)

    async def of(self, record: PredictionRecord, bundle: Bundle) -> tuple[ExplainResponse | None, str]:
        """Return the explanation of a record from the values that were scored, or None and why there is none.

        Nothing is raised: a person may contest a decision also while serving is away or has another bundle.
        """
        numbers = zip(bundle.numeric, record.numeric_values, strict=True)
        texts = zip(bundle.categorical, record.categorical_values, strict=True)
        request = ExplainRequest(
            endpoint=record.endpoint,
            bundle_digest=record.bundle_digest,
            columns=[
                *(from_doubles(name, [number]) for name, number in numbers),
                *(from_texts(name, [text]) for name, text in texts),
            ],
            event_time_micros=[record.event_time_micros],
        )
        try:
            return await self._serving.Explain(request, timeout=_CALL_SECONDS), ""
        except grpc.aio.AioRpcError as error:
            return None, f"{error.code().name}: {error.details()}"
