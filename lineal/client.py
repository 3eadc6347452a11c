"""The SDK: what a person or a program does with Lineal, in DataFrames and Arrow tables."""

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import pandas as pd
import pyarrow as pa

from lineal.answers import answers_frame, column_values
from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.report_pb2 import Alarm
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaState
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.calls import Services
from lineal.calls import new_request_id as new_request_id
from lineal.channel import DEFAULT_DEADLINE_SECONDS, TRANSIENT
from lineal.decisions import Decisions
from lineal.errors import CallFailed as CallFailed
from lineal.errors import Mistake, ProjectInvalid, call_failed
from lineal.frames import as_table, columns, columns_by_row, from_pieces, micros
from lineal.plan import Plan
from lineal.plan import plan as compare
from lineal.profile import Connection, Profile
from lineal.project import Definition, read_project
from lineal.quarantine import Quarantine
from lineal.reasons import explained
from lineal.registered import read_registered
from lineal.retiring import retire
from lineal.scoring import Scorings
from lineal.sending import Ingested as Ingested
from lineal.sending import send

_IN_FLIGHT = 16
_PIECE_BYTES = 1 << 20
_PARITY_SECONDS = 600.0
# Between two looks at a saga: the contract has no stream of its steps.
_WATCH_SECONDS = 0.3


@dataclass(frozen=True)
class Applied:
    """One definition that was registered, and its log position."""

    kind: str
    name: str
    position: int


class Client:
    """A connection to Lineal.

    `profile` is a file, a host, or None for `LINEAL_PROFILE` and else this machine. Calls wait `deadline_seconds` at
    most, also for a service that restarts meanwhile; they raise CallFailed.
    """

    def __init__(self, profile: Connection = None, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS) -> None:
        self.profile = profile if isinstance(profile, Profile) else Profile.load(profile)
        self.services = Services(self.profile, deadline_seconds)
        self.quarantine = Quarantine(self.services)
        self.decisions = Decisions(self.services)
        self.scorings = Scorings(self.services)

    def __enter__(self) -> "Client":
        """Use within a block."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.services.close()

    # Definitions

    def apply(self, folder: Path | str) -> list[Applied]:
        """Register the definitions of a project folder; what is registered already stays as it is.

        Raises ProjectInvalid with file, line and field of every mistake, whoever found it.
        """
        applied: list[Applied] = []
        position = 0
        for definition in read_project(Path(folder)):
            try:
                position = max(position, self._register(definition))
            except CallFailed as error:
                if not error.violations:
                    raise
                raise ProjectInvalid(
                    [
                        Mistake(definition.where(found.field.partition(".")[2]), found.field, found.description)
                        for found in error.violations
                    ]
                ) from error
            applied.append(Applied(definition.kind, definition.name, position))
        return applied

    def plan(self, folder: Path | str) -> Plan:
        """Return what `apply` of a project folder would change; writes nothing. Raises ProjectInvalid, CallFailed.

        What a service would refuse is not found here, only mistakes in the files themselves.
        """
        definitions = read_project(Path(folder))
        return compare((d.message for d in definitions), read_registered(self.services, definitions))

    def retire(self, kind: str, name: str, *, reason: str) -> int:
        """Let nothing new use a definition, of a kind as project files have it; return the log position."""
        return retire(self.services, kind, name, reason)

    def _register(self, definition: Definition) -> int:
        message, request_id = definition.message, new_request_id()
        match definition.kind:
            case "Dataset":
                request: Any = ingest_api.RegisterDatasetRequest(request_id=request_id, dataset=message)
                service = self.services.ingest
            case "FeatureView":
                request = features_api.RegisterFeatureViewRequest(request_id=request_id, feature_view=message)
                service = self.services.features
            case "FeatureSet":
                request = features_api.RegisterFeatureSetRequest(request_id=request_id, feature_set=message)
                service = self.services.features
            case "Model":
                request = registry_api.RegisterModelRequest(request_id=request_id, model=message)
                service = self.services.registry
            case _:
                request = registry_api.RegisterEndpointRequest(request_id=request_id, endpoint=message)
                service = self.services.registry
        return int(service.call(f"Register{definition.kind}", request).position)

    # Data

    def ingest(
        self,
        dataset: str,
        rows: "pd.DataFrame | pa.Table",
        *,
        batch_id: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Ingested:
        """Send rows to a dataset; they are durable when this returns.

        Large tables go as several batches, `<batch id>`, `<batch id>-2` and so on. Sending the same batch id again is
        harmless. `progress` gets the rows of each acknowledged batch.
        """
        return send(self.services.ingest, dataset, as_table(rows), batch_id or str(uuid.uuid4()), progress)

    def outcomes(self, dataset: str, rows: "pd.DataFrame | pa.Table", *, batch_id: str | None = None) -> Ingested:
        """Send late labels: rows of a label dataset, like any others; monitor joins them with their predictions."""
        return self.ingest(dataset, rows, batch_id=batch_id)

    def snapshot(self, dataset: str) -> pd.DataFrame:
        """Return everything that is accepted of a dataset now."""
        created = self.services.ingest.call(
            "CreateSnapshot", ingest_api.CreateSnapshotRequest(request_id=new_request_id(), dataset=dataset)
        )
        request = ingest_api.ReadSnapshotRequest(digest=created.snapshot.digest)
        return from_pieces(piece.arrow for piece in self.services.ingest.collect("ReadSnapshot", request))

    def training_set(self, digest: str) -> pd.DataFrame:
        """Return the rows of a training set."""
        request = features_api.ReadTrainingSetRequest(digest=digest)
        return from_pieces(piece.arrow for piece in self.services.features.collect("ReadTrainingSet", request))

    def online_features(
        self, feature_set: str, entities: pd.DataFrame, *, at: "datetime | pd.Series[Any]", version: str = ""
    ) -> pd.DataFrame:
        """Return the looked-up features of entities as of a time; one row per row of `entities`."""
        response = self.services.features.call(
            "GetOnlineFeatures",
            features_api.GetOnlineFeaturesRequest(
                feature_set=feature_set,
                feature_set_version=version,
                entities=columns(entities),
                cutoff_micros=micros(at),
            ),
        )
        return pd.DataFrame({column.name: column_values(column) for column in response.columns})

    # Predictions

    def predict(
        self,
        endpoint: str,
        rows: pd.DataFrame,
        *,
        key: str | None = None,
        event_time: "datetime | pd.Series[Any] | None" = None,
        min_position: int = 0,
    ) -> pd.DataFrame:
        """Score rows; return prediction_id, score, decision, arm, bundle_digest, trace_id and flags for each.

        With `key`, the name of a column, every row is a request of its own and its key picks the arm, so that releases
        can be judged by units; several requests are under way at once. Without, all rows go in one request.
        `event_time` is the time that features are looked up for, one for all rows or one per row; None is now.
        """
        times = [] if event_time is None else micros(event_time)
        if key is None:
            request = serving_api.PredictRequest(
                endpoint=endpoint,
                request_id=new_request_id(),
                columns=columns(rows),
                event_time_micros=times,
                min_position=min_position,
            )
            return answers_frame([self.services.serving.call("Predict", request)])
        requests = [
            serving_api.PredictRequest(
                endpoint=endpoint,
                request_id=new_request_id(),
                routing_key=str(routing_key),
                columns=row,
                event_time_micros=times[number : number + 1] if len(times) == len(rows) else times,
                min_position=min_position,
            )
            for number, (routing_key, row) in enumerate(zip(rows[key], columns_by_row(rows), strict=True))
        ]
        return answers_frame(self._many(requests))

    def _many(self, requests: Sequence[serving_api.PredictRequest]) -> list[serving_api.PredictResponse]:
        service = self.services.serving
        answers: list[serving_api.PredictResponse] = []
        waiting: deque[tuple[serving_api.PredictRequest, Any]] = deque()
        for request in requests:
            if len(waiting) >= _IN_FLIGHT:
                answers.append(self._result(*waiting.popleft()))
            waiting.append((request, service.stub.Predict.future(request, timeout=service.deadline_seconds)))
        answers += [self._result(request, future) for request, future in waiting]
        return answers

    def _result(self, request: serving_api.PredictRequest, future: Any) -> serving_api.PredictResponse:
        service = self.services.serving
        try:
            answer: serving_api.PredictResponse = future.result()
        except grpc.RpcError as error:
            if error.code() not in TRANSIENT:
                raise call_failed(error, service.name, service.address) from error
            # The same request id: if the first attempt was answered after all, this is the same answer.
            answer = service.call("Predict", request)
        return answer

    def predictions(
        self, endpoint: str, *, start: datetime | None = None, end: datetime | None = None, min_position: int = 0
    ) -> pd.DataFrame:
        """Return recorded predictions by event time in [start, end), with the outcomes that have come."""
        request = monitor_api.ReadPredictionsRequest(endpoint=endpoint, min_position=min_position)
        if start is not None:
            request.start_time.FromDatetime(start)
        if end is not None:
            request.end_time.FromDatetime(end)
        return from_pieces(piece.arrow for piece in self.services.monitor.collect("ReadPredictions", request))

    def reasons(self, prediction_id: str) -> dict[str, float]:
        """Return how much each column moved a recorded prediction's raw score, the greatest first."""
        found = explained(self.services, prediction_id).explanations[0]
        return {each.column: each.contribution for each in found.contributions}

    def check_parity(
        self, endpoint: str, *, predictions: int = 0, start: datetime | None = None, end: datetime | None = None
    ) -> monitor_api.CheckParityResponse:
        """Have what an endpoint's newest predictions looked up computed anew, offline, and compared.

        At most so many predictions, 0 is 200, with event times in [start, end). A difference raises an alarm.
        """
        request = monitor_api.CheckParityRequest(
            request_id=new_request_id(), endpoint=endpoint, predictions=predictions
        )
        if start is not None:
            request.start_time.FromDatetime(start)
        if end is not None:
            request.end_time.FromDatetime(end)
        found: monitor_api.CheckParityResponse = self.services.monitor.call(
            "CheckParity", request, timeout=_PARITY_SECONDS
        )
        return found

    # Releases

    def import_model(self, model: str, file: Path | str, *, description: str = "") -> str:
        """Make a bundle of a CatBoost model file and register it; return its digest. A person has to approve it."""
        request_id = new_request_id()
        data = Path(file).read_bytes()

        def messages() -> Iterator[trainer_api.ImportModelRequest]:
            header = trainer_api.ImportModelHeader(request_id=request_id, model=model, description=description)
            yield trainer_api.ImportModelRequest(header=header)
            for start in range(0, len(data), _PIECE_BYTES):
                yield trainer_api.ImportModelRequest(chunk=data[start : start + _PIECE_BYTES])

        trainer = self.services.trainer
        digest: str = trainer.patiently(lambda left: trainer.stub.ImportModel(messages(), timeout=left)).bundle_digest
        self.services.registry.call(
            "RegisterBundle",
            registry_api.RegisterBundleRequest(request_id=new_request_id(), model=model, bundle_digest=digest),
        )
        self.services.registry.call(
            "EvaluateGates", registry_api.EvaluateGatesRequest(request_id=new_request_id(), bundle_digest=digest)
        )
        return digest

    def approve(self, bundle_digest: str, reason: str) -> None:
        """Approve a bundle whose gates held."""
        self.services.registry.call(
            "ApproveBundle",
            registry_api.ApproveBundleRequest(request_id=new_request_id(), bundle_digest=bundle_digest, reason=reason),
        )

    def train(
        self,
        endpoint: str,
        *,
        reason: str = "asked for",
        start: datetime | None = None,
        end: datetime | None = None,
        feature_set: str = "",
        exclude_columns: Sequence[str] = (),
    ) -> str:
        """Ask for a candidate to be trained and released on an endpoint; return the saga's id."""
        request = registry_api.RequestRetrainRequest(
            request_id=new_request_id(),
            endpoint=endpoint,
            reason=reason,
            feature_set=feature_set,
            exclude_columns=exclude_columns,
        )
        if start is not None:
            request.training_start_time.FromDatetime(start)
        if end is not None:
            request.training_end_time.FromDatetime(end)
        return str(self.services.registry.call("RequestRetrain", request).saga_id)

    def release(self, endpoint: str, bundle_digest: str, *, reason: str = "asked for") -> str:
        """Ask for a bundle to be released; return the saga's id."""
        request = registry_api.RequestReleaseRequest(
            request_id=new_request_id(), endpoint=endpoint, bundle_digest=bundle_digest, reason=reason
        )
        return str(self.services.registry.call("RequestRelease", request).saga_id)

    def rollback(self, endpoint: str, *, reason: str = "asked for") -> str:
        """Ask for the previous champion to come back; return the saga's id."""
        request = registry_api.RequestRollbackRequest(request_id=new_request_id(), endpoint=endpoint, reason=reason)
        return str(self.services.registry.call("RequestRollback", request).saga_id)

    def saga(self, saga_id: str) -> Saga:
        """Return a saga with its steps."""
        found: Saga = self.services.registry.call("GetSaga", registry_api.GetSagaRequest(saga_id=saga_id)).saga
        return found

    def watch_saga(self, saga_id: str) -> Iterator[Saga]:
        """Yield a saga whenever it has a new step, until it has ended: a release may wait days for a person."""
        steps = -1
        while True:
            found = self.saga(saga_id)
            ended = found.state != SagaState.SAGA_STATE_ACTIVE
            if len(found.steps) != steps or ended:
                steps = len(found.steps)
                yield found
            if ended:
                return
            time.sleep(_WATCH_SECONDS)

    def sagas(self, endpoint: str = "") -> list[Saga]:
        """Return the latest sagas without their steps, newest first."""
        return list(self.services.registry.call("ListSagas", registry_api.ListSagasRequest(endpoint=endpoint)).sagas)

    def endpoint(
        self, name: str, *, as_of_position: int = 0, as_of_time: datetime | None = None
    ) -> registry_api.GetEndpointResponse:
        """Return an endpoint with its arms and how its champion became one, now or as of a log position or a time."""
        request = registry_api.GetEndpointRequest(name=name, as_of_position=as_of_position)
        if as_of_time is not None:
            request.as_of_time.FromDatetime(as_of_time)
        found: registry_api.GetEndpointResponse = self.services.registry.call("GetEndpoint", request)
        return found

    def alarms(self, endpoint: str = "") -> list[Alarm]:
        """Return the latest alarms, newest first."""
        return list(self.services.monitor.call("ListAlarms", monitor_api.ListAlarmsRequest(endpoint=endpoint)).alarms)


def connect(profile: Connection = None, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS) -> Client:
    """Return a client; see `Client`."""
    return Client(profile, deadline_seconds)
