"""Parity: what an endpoint's newest predictions were given, against what features computes anew, offline."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc.aio

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument, NotFound
from chassis.events import EventLog
from chassis.ids import request_id_from
from chassis.projection import ProjectionRunner
from lineal.api.features.v1.features_service_pb2 import CheckParityRequest
from lineal.api.features.v1.features_service_pb2_grpc import FeaturesServiceStub
from lineal.api.features.v1.parity_pb2 import FeatureValue, ParityDifference, ServedFeatures
from lineal.api.monitor.v1.events_pb2 import AlarmRaised, ParityChecked
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.monitor.v1.report_pb2 import Alarm, AlarmKind, ParityCheck, ParityReport
from services.monitor import period
from services.monitor.facts import Facts
from services.monitor.frames import Frames
from tabular.bundle import Bundle

_USUAL_PREDICTIONS = 200
_MOST_PREDICTIONS = 10_000
# As many as features takes in one call.
_TOGETHER = 1_000
_CALL_SECONDS = 600.0
_KEPT_DIFFERENCES = 1_000


class TooManyPredictions(InvalidArgument):
    """More predictions are asked for than one check looks at."""


class ParityReportUnknown(NotFound):
    """There is no report of a parity check of that digest."""


@dataclass(frozen=True)
class Checked:
    """A parity check with its evidence, the alarms it raised, and the log position of the newest event."""

    check: ParityCheck
    report: ParityReport
    alarms: list[Alarm]
    position: int


class Parity:
    """The application of parity checks."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        frames: Frames,
        sealed: ProjectionRunner,
        features: grpc.aio.Channel,
    ) -> None:
        self._artifacts = artifacts
        self._frames = frames
        self._sealed = sealed
        self._features = FeaturesServiceStub(features)
        self._facts = Facts(log, artifacts)
        self._endpoints = Repository(log, "monitor", period.decider)

    async def check(
        self, *, request_id: str, endpoint: str, start: int | None, end: int | None, predictions: int
    ) -> Checked:
        """Check the newest predictions with event times in [start, end) microseconds; 0 is the usual number.

        Raises EndpointUnknown, TooManyPredictions; errors of the features service pass through.
        """
        if predictions > _MOST_PREDICTIONS:
            what = FieldViolation("predictions", f"give at most {_MOST_PREDICTIONS:,}")
            raise TooManyPredictions(f"{predictions:,} predictions are too many for one parity check", [what])
        await self._facts.endpoint(endpoint)
        most = predictions or _USUAL_PREDICTIONS
        frame = await self._frames.predictions(endpoint, start=start, end=end, records=True, newest=most)
        records = [PredictionRecord.FromString(record) for record in frame["record"]]
        records = [record for record in records if record.feature_position or record.inputs]
        bundles = await asyncio.to_thread(self._facts.bundles_there, {record.bundle_digest for record in records})
        # What a bundle that cannot be read took is not known.
        records = [record for record in records if record.bundle_digest in bundles]
        values, differences = 0, list[ParityDifference]()
        for request in _requests(records, bundles):
            response = await self._features.CheckParity(request, timeout=_CALL_SECONDS)
            values += response.values
            differences += response.differences
        report = ParityReport(
            endpoint=endpoint,
            prediction_ids=[record.prediction_id for record in records],
            values=values,
            differing_values=len(differences),
            differences=differences[:_KEPT_DIFFERENCES],
        )
        digest = ""
        if records:
            digest = await asyncio.to_thread(self._artifacts.put, report.SerializeToString(deterministic=True))
        check = _check(records, report, differences, digest)
        outcome = await self._endpoints.execute(
            endpoint,
            request_id=request_id,
            decide=lambda state: period.check_parity(state, check, lambda new: _alarm(check, differences, new)),
        )
        await self._sealed.wait_for(outcome.position)
        # What a repeated command found before stands.
        check = next((event.check for event in outcome.events if isinstance(event, ParityChecked)), check)
        if check.report_digest != digest:
            report = await asyncio.to_thread(self.report, check.report_digest)
        alarms = [event.alarm for event in outcome.events if isinstance(event, AlarmRaised)]
        return Checked(check, report, alarms, outcome.position)

    def report(self, digest: str) -> ParityReport:
        """Return the evidence of a check. Raises ParityReportUnknown."""
        try:
            return ParityReport.FromString(self._artifacts.read(digest))
        except (NotFound, ValueError) as error:
            raise ParityReportUnknown(f"there is no report of a parity check {digest[:12]!r}") from error


def _requests(records: Sequence[PredictionRecord], bundles: dict[str, Bundle]) -> Iterator[CheckParityRequest]:
    by_set: dict[tuple[str, str], list[ServedFeatures]] = {}
    for record in records:
        bundle = bundles[record.bundle_digest]
        served = by_set.setdefault((bundle.feature_set, bundle.feature_set_version), [])
        served.append(
            ServedFeatures(
                prediction_id=record.prediction_id,
                entities=record.entities,
                cutoff_micros=record.event_time_micros,
                position=record.feature_position,
                values=_values(record, bundle),
                inputs=record.inputs,
            )
        )
    for (feature_set, version), served in sorted(by_set.items()):
        for start in range(0, len(served), _TOGETHER):
            yield CheckParityRequest(
                feature_set=feature_set, feature_set_version=version, served=served[start : start + _TOGETHER]
            )


def _values(record: PredictionRecord, bundle: Bundle) -> Iterator[FeatureValue]:
    """Yield what was looked up or made; features knows which of the columns come from views and from transforms."""
    for column, number in zip(bundle.numeric, record.numeric_values, strict=True):
        if column not in record.given_columns:
            yield FeatureValue(column=column, number=number)
    for column, text in zip(bundle.categorical, record.categorical_values, strict=True):
        if column not in record.given_columns:
            yield FeatureValue(column=column, text=text)
    # What only transforms take of views is no column of the model, but was looked up like the others.
    models = {column.name for column in bundle.columns}
    for value in record.inputs:
        if value.column not in models and value.column not in record.given_columns:
            yield value


def _check(
    records: Sequence[PredictionRecord], report: ParityReport, differences: Sequence[ParityDifference], digest: str
) -> ParityCheck:
    positions = [record.feature_position for record in records if record.feature_position]
    check = ParityCheck(
        endpoint=report.endpoint,
        min_position=min(positions, default=0),
        max_position=max(positions, default=0),
        predictions=len(records),
        values=report.values,
        differing_values=report.differing_values,
        differing_columns=sorted({each.served.column for each in differences}),
        differing_predictions=dict.fromkeys(each.prediction_id for each in differences),
        report_digest=digest,
    )
    if records:
        check.start_time.FromMicroseconds(min(record.event_time_micros for record in records))
        check.end_time.FromMicroseconds(max(record.event_time_micros for record in records))
    return check


def _alarm(check: ParityCheck, differences: Sequence[ParityDifference], prediction_id: str) -> Alarm:
    """Return the alarm of a check that has found a difference in a prediction."""
    first = next(each for each in differences if each.prediction_id == prediction_id)
    finding = (
        f"{first.served.column} of prediction {prediction_id} was served as {_text(first.served)}, the rows accepted "
        f"until log position {first.position:,} give {_text(first.computed)}; {check.differing_values:,} of "
        f"{check.values:,} values of {check.predictions:,} predictions differ. `lineal features explain "
        f"{prediction_id}` shows the rows, `lineal doctor --rebuild` whether online state is what the log makes"
    )
    kind = AlarmKind.ALARM_KIND_PARITY
    return Alarm(
        alarm_id=request_id_from("alarm", check.endpoint, check.report_digest, str(kind)),
        endpoint=check.endpoint,
        kind=kind,
        finding=finding,
        report_digest=check.report_digest,
        period_end_time=check.end_time,
    )


def _text(value: FeatureValue) -> str:
    if value.WhichOneof("value") == "number" and value.number == value.number:
        return f"{value.number!r}"
    return repr(value.text) if value.text else "null"
