"""The RPCs of the Open Inference Protocol, over the same application method as ServingService."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import lineal
from chassis.clock import Clock
from chassis.errors import LinealError, RuleViolated
from chassis.ids import RequestIdInvalid, check_request_id
from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceServicer
from services.serving.arms import ArmTable, EndpointSuspended, LoadedArms, NoChampion
from services.serving.input_limits import InputLimits
from services.serving.lease import LeaseKeeper
from services.serving.oip import Output, TensorInvalid, add_flags, columns_of, fill_outputs, text_parameter
from services.serving.predictor import Answer, BundleNotServed, Predictor
from services.serving.request import make
from services.serving.servicer import required
from tabular.bundle import Bundle, ModelColumn

Context = Any
_DATATYPES = {"numeric": "FP64", "categorical": "BYTES", "time": "INT64"}


class RawScoreGone(RuleViolated):
    """A repeated request is answered from its record, which has no raw tensor."""


class NoRawScore(RuleViolated):
    """No model has answered, so there is no raw tensor."""


class InferenceServicer(GRPCInferenceServiceServicer):
    """`inference.GRPCInferenceService`."""

    def __init__(
        self, predictor: Predictor, arms: ArmTable, lease: LeaseKeeper, limits: InputLimits, clock: Clock
    ) -> None:
        self._predictor = predictor
        self._arms = arms
        self._lease = lease
        self._limits = limits
        self._clock = clock

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        # As the health RPC has it: one endpoint whose model cannot be loaded does not take the others away.
        try:
            await self._arms.check()
            await self._lease.check()
        except LinealError:
            return oip.ServerReadyResponse(ready=False)
        return oip.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        return oip.ModelReadyResponse(ready=self._ready(request.name, request.version))

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name="lineal", version=lineal.__version__)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        loaded = self._arms.get(request.name)
        bundle = _bundle(loaded, request.version)
        outputs = [_described("predict", "FP64" if bundle.problem == "regression" else "INT64", [-1])]
        if bundle.classes:
            outputs[0].parameters["classes"].string_param = json.dumps(bundle.classes)
        if bundle.problem != "regression":
            outputs.append(_described("predict_proba", "FP64", [-1, len(bundle.classes) or 2]))
        outputs.append(_described("raw", "FP64", [-1, len(bundle.classes)] if bundle.classes else [-1]))
        response = oip.ModelMetadataResponse(
            name=request.name,
            versions=sorted(loaded.bundles),
            platform="catboost",
            inputs=[_described(column.name, _DATATYPES[column.type], [-1]) for column in required(bundle)],
            outputs=outputs,
        )
        response.parameters["content_type"].string_param = "pd"
        return response

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        self._limits.check_tensors(request)
        made = make(
            endpoint=request.model_name,
            request_id=_request_id(request.id),
            routing_key=text_parameter(request, "routing_key"),
            columns=columns_of(request, lambda width: self._order(request, width), self._limits.text_bytes),
            event_time_micros=_event_time(text_parameter(request, "event_time")),
            now=self._clock.now(),
            bundle_digest=request.model_version,
        )
        answer = await self._predictor.predict(made)
        response = oip.ModelInferResponse(
            model_name=request.model_name, model_version=answer.response.bundle_digest, id=request.id or made.request_id
        )
        parameters = response.parameters
        parameters["prediction_id"].string_param = answer.response.prediction_ids[0]
        parameters["bundle_digest"].string_param = answer.response.bundle_digest
        parameters["arm"].string_param = answer.response.arm
        parameters["trace_id"].string_param = answer.response.trace_id
        add_flags(response, answer.response)
        asked = [output.name for output in request.outputs]
        if answer.raw is None and "raw" in asked:
            if answer.response.fallback_cause:
                raise NoRawScore("the endpoint's fallback has answered, which has no raw score; ask for the others")
            raise RawScoreGone("this request was answered before; its raw score is in its record only")
        fill_outputs(response, asked, _outputs(answer), raw=bool(request.raw_input_contents))
        return response

    def _order(self, request: oip.ModelInferRequest, width: int) -> Sequence[ModelColumn]:
        """Return the columns of a matrix of so many."""
        try:
            bundle = _bundle(self._arms.get(request.model_name), request.model_version)
        except (NoChampion, EndpointSuspended):
            # The predictor refuses the request, or a fallback answers, which takes no column.
            return [ModelColumn(str(number), "numeric") for number in range(width)]
        return _order(bundle, width)

    def _ready(self, endpoint: str, version: str) -> bool:
        try:
            loaded = self._arms.get(endpoint)
        except LinealError:
            return False
        return self._lease.valid and (not version or version in loaded.bundles)


def _bundle(loaded: LoadedArms, version: str) -> Bundle:
    if not version:
        return loaded.champion_bundle
    if version not in loaded.bundles:
        raise BundleNotServed(f"version {version!r} is not served; there are {', '.join(sorted(loaded.bundles))}")
    return loaded.bundles[version]


def _order(bundle: Bundle, width: int) -> list[ModelColumn]:
    """Return the order of a matrix: what the metadata names, or every feature where the matrix is as wide."""
    wanted = required(bundle)
    return list(bundle.columns) if len(bundle.columns) == width != len(wanted) else wanted


def _outputs(answer: Answer) -> dict[str, Output]:
    response = answer.response
    scores, decisions, class_scores = response.scores[:], response.decisions[:], response.class_scores[:]
    rows = len(scores)
    outputs = {"predict": Output("INT64", [rows], decisions) if decisions else Output("FP64", [rows], scores)}
    if class_scores:
        outputs["predict_proba"] = Output("FP64", [rows, len(class_scores) // rows], class_scores)
    elif decisions:
        outputs["predict_proba"] = Output("FP64", [rows, 2], [each for score in scores for each in (1 - score, score)])
    if answer.raw is not None:
        outputs["raw"] = Output("FP64", answer.raw.shape, answer.raw.reshape(-1).tolist())
    return outputs


def _described(name: str, datatype: str, shape: list[int]) -> oip.ModelMetadataResponse.TensorMetadata:
    described = oip.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)
    described.parameters["content_type"].string_param = "str" if datatype == "BYTES" else "np"
    return described


def _request_id(sent: str) -> str:
    """Return the id of a request, empty to have one made: clients of this protocol number theirs as they like.

    Ids like "1" come from many clients, so only a UUID is believed to name one request.
    """
    try:
        return check_request_id(sent) if sent else ""
    except RequestIdInvalid:
        return ""


def _event_time(text: str) -> list[int]:
    if not text:
        return []
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min  # noqa: DTZ901 - without a zone, so that it is refused below
    if moment.tzinfo is None:
        raise TensorInvalid(f"parameter event_time {text!r} is no time with a zone; write 2013-07-01T12:00:00+00:00")
    return [int(moment.timestamp() * 1_000_000)]
