"""What monitor does: one method per use case."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd
from sqlalchemy import Connection, func, select

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument, NotFound
from chassis.events import EventLog
from chassis.ids import request_id_from
from chassis.projection import ProjectionBehind, ProjectionRunner
from lineal.api.monitor.v1 import monitor_service_pb2 as api
from lineal.api.monitor.v1.prediction_pb2 import MirroredScore, PredictionRecord
from lineal.api.monitor.v1.report_pb2 import (
    Alarm,
    ArmPerformance,
    Period,
    PeriodReport,
    ReleaseReport,
    Verdict,
)
from services.monitor import detectors, period, projections, proofs, tables
from services.monitor.drift import Detector
from services.monitor.examination import alarms_in, busiest, report_on
from services.monitor.facts import EndpointFacts, Facts
from services.monitor.frames import Frames
from services.monitor.labels import has_classes
from services.monitor.performance import by_arm, by_models
from services.monitor.release import Step, judge
from services.monitor.segments import Segment
from services.monitor.unsealed import TABLES, UnsealedRecords

_logger = logging.getLogger(__name__)
_SEGMENT_ROWS = 5_000
_SEAL_SECONDS = 30.0


class PredictionUnknown(NotFound):
    """No prediction of that id was recorded."""


class SegmentUnknown(NotFound):
    """No segment of that digest was sealed."""


class ReportUnknown(NotFound):
    """There is no report of that digest."""


class GenerationUnknown(InvalidArgument):
    """An endpoint has not had a generation."""


@dataclass(frozen=True)
class Found:
    """A prediction with everything that is known of it."""

    record: PredictionRecord
    numeric_columns: list[str]
    categorical_columns: list[str]
    outcome: float | None
    outcome_batch: str
    segment: str
    mirrored: list[MirroredScore]


class Monitor:
    """The application of monitor."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        unsealed: UnsealedRecords,
        sealed: ProjectionRunner,
        frames: Frames,
        *,
        detector: str,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._unsealed = unsealed
        self._sealed = sealed
        self._facts = Facts(log, artifacts)
        self._frames = frames
        self._endpoints = Repository(log, "monitor", period.decider)
        self._detector_choice = detector
        self._detector: Detector | None = None
        # One sealer at a time, or a record could go into two segments.
        self._sealing = asyncio.Lock()
        self._reconciled = False

    async def record(self, predictions: Sequence[PredictionRecord], mirrored: Sequence[MirroredScore]) -> int:
        """Take records; durable when this returns. A prediction id counts once."""
        ids = list({*(record.prediction_id for record in predictions), *(score.prediction_id for score in mirrored)})
        sealed = await self._sealed.query(lambda connection: _endpoints_of(connection, projections.SEALED, ids))
        waiting = await asyncio.to_thread(self._unsealed.read, lambda c: _endpoints_of(c, TABLES, ids))
        endpoints = sealed | waiting | {record.prediction_id: record.endpoint for record in predictions}
        fresh = [record for record in predictions if record.prediction_id not in sealed]
        await asyncio.to_thread(self._unsealed.add, fresh, mirrored, endpoints)
        return len(predictions)

    async def prediction(self, prediction_id: str) -> Found:
        """Return a prediction. Raises PredictionUnknown."""
        waiting = await asyncio.to_thread(self._unsealed.read, lambda c: _record_of(c, TABLES, prediction_id))
        found = waiting or await self._sealed.query(lambda c: _record_of(c, projections.SEALED, prediction_id))
        if found is None:
            raise _unknown(prediction_id)
        record, segment = found
        bundle = self._facts.bundle(record.bundle_digest) if record.bundle_digest else None
        facts = await self._facts.endpoint(record.endpoint)
        frame = pd.DataFrame({"prediction_id": [prediction_id], "label_key": [record.label_key or prediction_id]})
        joined = (await self._frames.with_outcomes(frame, facts.label)).iloc[0]
        mirrored = await self._sealed.query(lambda c: _mirrored_of(c, projections.SEALED, prediction_id))
        mirrored += await asyncio.to_thread(self._unsealed.read, lambda c: _mirrored_of(c, TABLES, prediction_id))
        return Found(
            record=record,
            numeric_columns=bundle.numeric if bundle else [],
            categorical_columns=bundle.categorical if bundle else [],
            outcome=None if pd.isna(joined["outcome"]) else float(joined["outcome"]),
            outcome_batch=str(joined["outcome_batch"]),
            segment=segment,
            mirrored=list({score.bundle_digest: score for score in mirrored}.values()),
        )

    async def prove(self, prediction_id: str) -> proofs.Proof:
        """Prove that a prediction is in a sealed segment; one that waits is sealed now. Raises PredictionUnknown."""
        waiting = await asyncio.to_thread(self._unsealed.read, lambda c: _record_of(c, TABLES, prediction_id))
        if waiting is not None:
            await self._seal(waiting[0].endpoint)
        place = await self._sealed.query(lambda c: proofs.place_of(c, prediction_id))
        if place is None:
            raise _unknown(prediction_id)
        return await asyncio.to_thread(proofs.prove, self._artifacts, place)

    async def segment(self, digest: str, bundles: Collection[str], position: int) -> list[PredictionRecord]:
        """Return predictions of a sealed segment, see `Segment.using`. Raises SegmentUnknown."""
        if not await self._sealed.query(lambda connection: projections.is_segment(connection, digest)):
            raise SegmentUnknown(f"no segment {digest[:64]!r} was sealed; `lineal lineage` names those that were")
        return await asyncio.to_thread(
            lambda: Segment.from_parquet(self._artifacts.read(digest)).using(bundles, position)
        )

    async def predictions(self, endpoint: str, start: int | None, end: int | None, min_position: int) -> pd.DataFrame:
        """Return predictions with outcomes; a column `score_<digest>` for each bundle that scored in the background."""
        facts = await self._facts.endpoint(endpoint)
        frame = await self._frames.predictions(endpoint, start=start, end=end)
        frame = await self._frames.with_outcomes(frame, facts.label, min_position)
        bundles = sorted({arm.bundle_digest for arms in facts.arms.values() for arm in arms})
        mirrored = await self._frames.mirrored(endpoint, bundles)
        for digest in bundles:
            scores = mirrored[mirrored["bundle_digest"] == digest].set_index("prediction_id")["score"]
            if len(scores):
                frame[f"score_{digest}"] = frame["prediction_id"].map(scores).astype(float)
        return frame

    async def performance(
        self, endpoint: str, start: int | None, end: int | None, min_position: int
    ) -> list[ArmPerformance]:
        """Return how each arm did on event times in [start, end) microseconds."""
        facts = await self._facts.endpoint(endpoint)
        frame = await self._frames.predictions(endpoint, start=start, end=end, records=has_classes(facts.label))
        return by_arm(await self._frames.with_outcomes(frame, facts.label, min_position), facts.label)

    async def examine(self, endpoint: str) -> tuple[list[Period], list[Alarm], int | None, int]:
        """Close every period that is due; return periods, alarms, watermark in microseconds, and log position."""
        facts = await self._facts.endpoint(endpoint)
        policy = facts.endpoint.monitoring
        await self._seal(endpoint)
        loaded = await self._endpoints.load(endpoint)
        closed_until = loaded.state.closed_until_micros
        frame = await self._frames.predictions(endpoint, start=closed_until)
        if not len(frame):
            return [], [], closed_until or None, loaded.position
        watermark = int(frame["event_time"].max()) - _micros(policy.allowed_lateness.ToTimedelta().total_seconds())
        length = _micros(policy.period.ToTimedelta().total_seconds())
        periods, alarms, position = [], [], loaded.position
        for start, end in period.due(closed_until, frame["event_time"].tolist(), watermark, length):
            closed, raised, position = await self._close(endpoint, facts, start, end)
            periods.append(closed)
            alarms += raised
        return periods, alarms, watermark, position

    def report(self, digest: str) -> PeriodReport:
        """Return the evidence of a period. Raises ReportUnknown."""
        try:
            return PeriodReport.FromString(self._artifacts.read(digest))
        except (NotFound, ValueError) as error:
            raise ReportUnknown(f"there is no period report {digest[:12]!r}") from error

    async def periods_page(self, endpoint: str, size: int, token: str) -> tuple[list[Period], str]:
        """Return a page of closed periods, newest first, and the token of the next."""
        return await self._sealed.query(lambda c: projections.periods_of(c, endpoint, size, token))

    async def alarms_page(self, endpoint: str, size: int, token: str) -> tuple[list[Alarm], str]:
        """Return a page of alarms, newest first, and the token of the next."""
        return await self._sealed.query(lambda c: projections.alarms_of(c, endpoint, size, token))

    async def judge(self, request: api.JudgeReleaseRequest) -> tuple[ReleaseReport, str]:
        """Judge a candidate; return the evidence and its digest, empty while more data is waited for.

        Raises GenerationUnknown, NotABundle.
        """
        facts = await self._facts.endpoint(request.endpoint)
        arms = facts.arms.get(request.step_generation)
        if arms is None:
            raise GenerationUnknown(
                f"endpoint {request.endpoint!r} has had no generation {request.step_generation}",
                [FieldViolation("step_generation", "name the generation that ChangeArms returned")],
            )
        share = next((arm.share for arm in arms if arm.bundle_digest == request.candidate_digest), 0.0)
        shares = list(request.policy.canary_shares)
        step = Step(
            request.stage,
            request.from_generation,
            request.step_generation,
            share,
            last=not shares or share >= shares[-1],
        )
        rows = await self._release_rows(request, facts)
        classes = self._facts.bundle(request.candidate_digest).problem == "multiclass"
        report = judge(rows, step, request.policy, request.candidate_digest, request.champion_digest, classes=classes)
        report.endpoint = request.endpoint
        if report.verdict == Verdict.VERDICT_WAIT:
            return report, ""
        return report, await asyncio.to_thread(self._artifacts.put, report.SerializeToString(deterministic=True))

    async def counters(self, endpoint: str) -> list[api.RecordCounters]:
        """Return how many predictions are recorded, sealed and joined, by endpoint."""
        waiting = await asyncio.to_thread(self._unsealed.counts)
        sealed = await self._sealed.query(_sealed_counts)
        names = [endpoint] if endpoint else sorted(set(waiting) | set(sealed))
        found = []
        for name in names:
            facts = await self._facts.endpoint(name)
            frame = await self._frames.with_outcomes(await self._frames.predictions(name), facts.label)
            found.append(
                api.RecordCounters(
                    endpoint=name,
                    recorded=len(frame),
                    sealed=int((frame["segment"] != "").sum()),
                    with_outcome=int(frame["outcome"].notna().sum()),
                )
            )
        return found

    async def run(self) -> None:
        """Seal what waits, for ever: at once when a segment is full, else after a while."""
        while True:
            await asyncio.sleep(_SEAL_SECONDS)
            for endpoint in await asyncio.to_thread(self._unsealed.counts):
                try:
                    await self._seal(endpoint)
                except ProjectionBehind as error:
                    # What was sealed by then is found in the tables before the next try.
                    self._reconciled = False
                    _logger.warning("sealing of %s is tried again: %s", endpoint, error)

    async def _close(
        self, endpoint: str, facts: EndpointFacts, start: int, end: int
    ) -> tuple[Period, list[Alarm], int]:
        frame = await self._frames.predictions(endpoint, start=start, end=end, records=True)
        frame = await self._frames.with_outcomes(frame, facts.label)
        digest = busiest(frame)
        # Where a fallback has answered everything there is nothing to compare.
        bundle = self._facts.bundle(digest) if digest else None
        policy = facts.endpoint.monitoring
        detector = await self._load_detector()
        report = await asyncio.to_thread(report_on, frame, facts, digest, bundle, self._artifacts, detector)
        report.endpoint = endpoint
        report.start_time.FromMicroseconds(start)
        report.end_time.FromMicroseconds(end)
        report_digest = await asyncio.to_thread(self._artifacts.put, report.SerializeToString(deterministic=True))
        closed = Period(
            endpoint=endpoint,
            start_time=report.start_time,
            end_time=report.end_time,
            predictions=report.predictions,
            drifted_columns=[finding.column for finding in report.findings if finding.drifted],
            report_digest=report_digest,
            examined=bool(report.findings),
        )
        raised = [
            Alarm(
                alarm_id=request_id_from("alarm", endpoint, report_digest, str(kind)),
                endpoint=endpoint,
                kind=kind,
                finding=finding,
                report_digest=report_digest,
                period_end_time=report.end_time,
            )
            for kind, finding in (alarms_in(report, bundle, policy) if bundle else ())
        ]
        outcome = await self._endpoints.execute(
            endpoint,
            request_id=request_id_from("period", endpoint, str(start)),
            decide=lambda state: period.close(state, closed, raised),
        )
        await self._sealed.wait_for(outcome.position)
        return closed, raised, outcome.position

    async def _seal(self, endpoint: str) -> None:
        """Seal everything of an endpoint that waits."""
        async with self._sealing:
            await self._reconcile()
            while True:
                segment, ids = await asyncio.to_thread(self._unsealed.segment, endpoint, _SEGMENT_ROWS)
                if not ids:
                    return
                await self._seal_segment(endpoint, segment)

    async def _seal_segment(self, endpoint: str, segment: Segment) -> None:
        digest = await asyncio.to_thread(lambda: self._artifacts.put(segment.to_parquet()))
        bundles = await asyncio.to_thread(self._facts.bundles_there, segment.bundle_digests)
        sealed = segment.sealed(endpoint, digest, bundles)
        outcome = await self._endpoints.execute(
            endpoint,
            request_id=request_id_from("segment", endpoint, digest),
            decide=lambda state: period.seal(state, sealed),
        )
        await self._sealed.wait_for(outcome.position)
        await asyncio.to_thread(self._unsealed.remove, segment)

    async def _reconcile(self) -> None:
        """Forget waiting records that a crash left here although their segment was sealed."""
        if self._reconciled:
            return
        await self._sealed.wait_for(await self._log.head())
        ids = await asyncio.to_thread(self._unsealed.ids)
        known = await self._sealed.query(lambda c: tables.existing(c, projections.SEALED.predictions, ids))
        await asyncio.to_thread(self._unsealed.forget, [key[0] for key in known])
        self._reconciled = True

    async def _load_detector(self) -> Detector:
        if self._detector is None:
            self._detector = await asyncio.to_thread(detectors.detector, self._detector_choice)
            _logger.info("drift is sought with %s", self._detector.name)
        return self._detector

    async def _release_rows(self, request: api.JudgeReleaseRequest, facts: EndpointFacts) -> pd.DataFrame:
        frame = by_models(await self._frames.predictions(request.endpoint, from_generation=request.from_generation))
        frame = await self._frames.with_outcomes(frame, facts.label)
        both = (request.candidate_digest, request.champion_digest)
        mirrored = await self._frames.mirrored(request.endpoint, both)
        slow = _micros(request.policy.latency_objective.ToTimedelta().total_seconds())
        for name, digest in zip(("candidate", "champion"), both, strict=True):
            others = mirrored[mirrored["bundle_digest"] == digest].set_index("prediction_id")
            own = frame["bundle_digest"] == digest
            ids = frame["prediction_id"]
            score = frame["score"].astype(float).where(own, ids.map(others["score"]).astype(float))
            latency = frame["latency"].astype(float).where(own, ids.map(others["latency"]).astype(float))
            frame[f"{name}_score"] = score
            frame[f"{name}_scored"] = own | ids.isin(others.index)
            late = latency > slow if slow else pd.Series(False, index=frame.index)
            frame[f"{name}_failed"] = frame[f"{name}_scored"] & (score.isna() | late)
        return frame


def _endpoints_of(connection: Connection, where: tables.PredictionTables, ids: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    table = where.predictions
    for start in range(0, len(ids), tables.CHUNK):
        query = select(table.c.prediction_id, table.c.endpoint).where(
            table.c.prediction_id.in_(ids[start : start + tables.CHUNK])
        )
        found.update({row.prediction_id: row.endpoint for row in connection.execute(query)})
    return found


def _unknown(prediction_id: str) -> PredictionUnknown:
    return PredictionUnknown(f"prediction {prediction_id!r} was never recorded here; give an id that Predict answered")


def _record_of(
    connection: Connection, where: tables.PredictionTables, prediction_id: str
) -> tuple[PredictionRecord, str] | None:
    table = where.predictions
    query = select(table.c.record, table.c.segment).where(table.c.prediction_id == prediction_id)
    row = connection.execute(query).first()
    return None if row is None else (PredictionRecord.FromString(row.record), row.segment)


def _mirrored_of(connection: Connection, where: tables.PredictionTables, prediction_id: str) -> list[MirroredScore]:
    query = select(where.mirrored.c.record).where(where.mirrored.c.prediction_id == prediction_id)
    return [MirroredScore.FromString(record) for record in connection.execute(query).scalars()]


def _sealed_counts(connection: Connection) -> dict[str, int]:
    table = projections.SEALED.predictions
    query = select(table.c.endpoint, func.count()).group_by(table.c.endpoint)
    return {row[0]: row[1] for row in connection.execute(query)}


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)
