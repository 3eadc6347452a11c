"""Contested decisions: freeze what a decision rests on, queue it for a person, resolve it."""

import asyncio
from datetime import timedelta

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.clock import Clock
from chassis.context import caller
from chassis.events import EventLog
from chassis.past import AsOf
from chassis.projection import ProjectionRunner
from lineal.api.monitor.v1.contest_pb2 import Contest, ContestEvidence, ContestState
from lineal.api.monitor.v1.events_pb2 import ContestResolved, PredictionContested
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from services.monitor import contest as contests
from services.monitor import contest_tables
from services.monitor.application import Monitor
from services.monitor.explanations import Explanations
from services.monitor.facts import Facts


class Contests:
    """The application of contests; `due` is how long a person may take, none is no limit."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        monitor: Monitor,
        tables: ProjectionRunner,
        explanations: Explanations,
        clock: Clock,
        due: timedelta,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._monitor = monitor
        self._tables = tables
        self._explanations = explanations
        self._clock = clock
        self._due = due
        self._facts = Facts(log, artifacts)
        self._contests = Repository(log, "contest", contests.decider)

    async def contest(self, *, request_id: str, prediction_id: str, reason: str) -> tuple[Contest, int]:
        """Contest a prediction; return the contest, or the one that is open, and the log position.

        Raises PredictionUnknown, ReasonMissing.
        """
        contested = await self._contested(prediction_id, reason)
        outcome = await self._contests.execute(
            prediction_id, request_id=request_id, decide=lambda state: contests.contest(state, contested)
        )
        new = [event.contest_id for event in outcome.events if isinstance(event, PredictionContested)]
        (name,) = new or [contests.contest_id(prediction_id, len(outcome.state.states))]
        return await self._read(name, outcome.position), outcome.position

    async def resolve(
        self, *, request_id: str, contest_id: str, resolution: ContestState.ValueType, reason: str
    ) -> tuple[Contest, int]:
        """Resolve a contest; return it and the log position. See `contest.resolve`."""
        resolved = ContestResolved(contest_id=contest_id, resolution=resolution, reason=reason)
        prediction_id = contests.prediction_of(contest_id)
        contested = {
            event.message.contest_id: event
            for event in await self._log.read_stream(f"contest/{prediction_id}")
            if isinstance(event.message, PredictionContested)
        }.get(contest_id)
        if contested is None or not isinstance(contested.message, PredictionContested):
            raise contests.unknown(contest_id)
        answerable, who = await self._facts.answerable(contested.message.model), caller().actor
        outcome = await self._contests.execute(
            prediction_id,
            request_id=request_id,
            decide=lambda state: contests.resolve(
                state, resolved, who=who, contested_by=contested.actor, answerable=answerable
            ),
        )
        return await self._read(contest_id, outcome.position), outcome.position

    async def get(self, contest_id: str, min_position: int, as_of: AsOf | None) -> tuple[Contest, ContestEvidence]:
        """Return a contest and its evidence. Raises ContestUnknown."""
        found = await self._read(contest_id, min_position, as_of)
        evidence = await asyncio.to_thread(self._artifacts.read, found.evidence_digest)
        return found, ContestEvidence.FromString(evidence)

    async def page(
        self,
        endpoint: str,
        state: ContestState.ValueType,
        size: int,
        token: str,
        min_position: int,
        as_of: AsOf | None,
    ) -> tuple[list[Contest], str]:
        """Return a page of contests, oldest first, and the token of the next."""
        return await self._tables.query(
            lambda connection: contest_tables.contests_of(connection, endpoint, state, size, token),
            min_position,
            as_of,
        )

    async def _contested(self, prediction_id: str, reason: str) -> PredictionContested:
        proof = await self._monitor.prove(prediction_id)
        record = PredictionRecord.FromString(proof.place.record)
        bundle = self._facts.bundle(record.bundle_digest)
        explanation, missing = await self._explanations.of(record, bundle)
        evidence = ContestEvidence(
            record=proof.place.record,
            segment_digest=proof.place.segment_digest,
            index=proof.index,
            path=proof.path,
            position=proof.place.position,
            numeric_columns=bundle.numeric,
            categorical_columns=bundle.categorical,
            explanation=explanation,
            without_explanation=missing,
        )
        digest = await asyncio.to_thread(self._artifacts.put, evidence.SerializeToString(deterministic=True))
        contested = PredictionContested(
            prediction_id=prediction_id,
            endpoint=record.endpoint,
            model=bundle.model,
            bundle_digest=record.bundle_digest,
            reason=reason,
            evidence_digest=digest,
            segment_digest=proof.place.segment_digest,
            policy_digest=explanation.basis.policy_digest if explanation else "",
        )
        if self._due:
            contested.due_time.FromDatetime(self._clock.now() + self._due)
        return contested

    async def _read(self, contest_id: str, min_position: int, as_of: AsOf | None = None) -> Contest:
        found = await self._tables.query(
            lambda connection: contest_tables.contest_of(connection, contest_id), min_position, as_of
        )
        if found is None:
            raise contests.unknown(contest_id)
        return found
