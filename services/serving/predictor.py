"""Predict: route, look up, score, record, answer; then score the arms that did not answer."""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags, Tracer

from chassis.clock import Clock
from chassis.context import caller, check_deadline, deadline_in, time_left
from chassis.durations import Durations
from chassis.errors import FieldViolation, InvalidArgument, LinealError, Unavailable
from lineal.api.monitor.v1.prediction_pb2 import MirroredScore
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole
from lineal.api.serving.v1.serving_service_pb2 import PredictResponse
from lineal.api.tabular.v1.flags_pb2 import RowFlags
from services.serving import fallback
from services.serving.answering import ROLES, answer_of, flags_of, records_of
from services.serving.arms import ArmTable, EndpointUnknown, LoadedArms
from services.serving.lease import LeaseKeeper
from services.serving.limiter import Limiter
from services.serving.loader import BundleUnloadable
from services.serving.lookups import NOTHING, LookedUp, Lookups
from services.serving.recorder import Recorder
from services.serving.request import Request
from services.serving.scored import Scored
from services.serving.scorers import Scorers
from tabular.guard import Guard
from tabular.on_demand import OnDemand, on_demand
from tabular.scorer import Scorer
from tabular.vectors import ColumnMissing, ColumnMistyped, Vectors, assemble

_logger = logging.getLogger(__name__)
# From here on a thread is worth its switch; the compiled applier has scored a thousand rows by then.
_THREAD_ROWS = 64
_THREAD_ROWS_COMPILED = 1_000
_MOST_MIRRORS = 256
_NOTHING_TAKEN: Mapping[str, npt.NDArray[Any]] = {}


class FeatureInvalid(InvalidArgument):
    """A feature is missing or mistyped."""


class BundleNotServed(InvalidArgument):
    """A request asks for a bundle that no arm has."""


class ReplicaCutOff(Unavailable):
    """The replica's lease has ended, so what it serves may be out of date."""


@dataclass(frozen=True)
class Answer:
    """A response, and the raw scores that OIP clients may ask for; None for a repeated request."""

    response: PredictResponse
    raw: npt.NDArray[np.float64] | None


class Predictor:
    """The one method behind both front doors."""

    def __init__(
        self,
        arms: ArmTable,
        scorers: Scorers,
        lookups: Lookups,
        recorder: Recorder,
        lease: LeaseKeeper,
        limiter: Limiter,
        clock: Clock,
        tracer: Tracer,
        durations: Durations,
    ) -> None:
        self._arms = arms
        self._scorers = scorers
        self._lookups = lookups
        self._recorder = recorder
        self._lease = lease
        self._limiter = limiter
        self._clock = clock
        self._tracer = tracer
        self._durations = durations
        self._mirrors: set[asyncio.Task[None]] = set()

    async def predict(self, request: Request) -> Answer:
        """Score the rows of a request.

        The same request id gives the same answer. Raises EndpointUnknown, NoChampion, FeatureInvalid, EntityKeyMissing,
        BundleNotServed, BundleUnloadable, CannotRecord, ReplicaCutOff, RateExceeded, BudgetSpent, RequestOverLimit,
        DeadlinePassed.
        """
        try:
            return await self._predict(request)
        except EndpointUnknown:
            # Not counted, or strangers could fill the memory with their names.
            raise
        except Exception:
            self._recorder.failed(request.endpoint)
            raise

    async def _predict(self, request: Request) -> Answer:
        started = time.perf_counter()
        known = self._recorder.answered(request.request_id)
        if known is not None:
            self._describe_repeated(known)
            return Answer(self._named(request, known), None)
        self._admit(request)
        try:
            # The request holds on to this generation, whatever happens to the arms meanwhile.
            loaded = self._arms.get(request.endpoint)
            scored, instead = await self._score_routed(loaded, request)
            flags = None if scored.scorer.guard is None else await _flagged(scored.scorer.guard, scored.vectors)
            answer = answer_of(loaded, scored, request, flags)
        except Exception as error:
            return self._fall_back(request, error, started)
        recording = time.perf_counter()
        latency = _micros(started, recording)
        records = records_of(scored, request, answer, self._clock.now(), latency, champion_instead=instead)
        self._recorder.record(request.endpoint, records, answer, strict=loaded.endpoint.strict)
        stages = {
            "lineal.features_micros": scored.features_micros,
            "lineal.score_micros": scored.score_micros,
            "lineal.record_micros": _micros(recording),
        }
        self._describe(request, answer, latency, stages)
        self._mirror(loaded, scored, request)
        return Answer(answer, scored.scores.raw)

    def _fall_back(self, request: Request, error: Exception, started: float) -> Answer:
        """Answer with the endpoint's declared fallback; raise the error where there is none, or it is not for that."""
        endpoint, generation = self._arms.declared(request.endpoint)
        cause = fallback.cause_of(error, endpoint.fallback) if endpoint.HasField("fallback") else ""
        if not cause or request.bundle_digest:
            raise error
        if cause == "scoring":
            _logger.error("scoring for %s failed, its fallback answers", request.endpoint, exc_info=error)
        answer = fallback.answer_of(endpoint, generation, request, cause)
        recording = time.perf_counter()
        latency = _micros(started, recording)
        bundle = self._arms.bundle(request.endpoint)
        records = fallback.records_of(request, answer, bundle, self._clock.now(), latency)
        self._recorder.record(request.endpoint, records, answer, strict=endpoint.strict)
        self._describe(request, answer, latency, {"lineal.record_micros": _micros(recording)})
        return Answer(answer, None)

    async def score(self, request: Request) -> Scored:
        """Score rows as `predict` would, without an answer or a record. Raises what it raises, but CannotRecord."""
        self._admit(request)
        loaded = self._arms.get(request.endpoint)
        return await self._score(loaded, self._arm(loaded, request), request)

    async def drain(self) -> None:
        """Wait until the arms that did not answer have scored, too."""
        await asyncio.gather(*self._mirrors, return_exceptions=True)

    def _admit(self, request: Request) -> None:
        """Refuse a request that this replica is not to answer.

        Raises DeadlinePassed, ReplicaCutOff, and what Limiter.take raises.
        """
        check_deadline()
        if not self._lease.valid:
            raise ReplicaCutOff("this replica has lost touch with the registry; another one may answer")
        endpoint, _ = self._arms.declared(request.endpoint)
        if endpoint.HasField("limits"):
            try:
                self._limiter.take(request.endpoint, endpoint.limits, caller().actor, request.rows)
            except LinealError:
                self._recorder.limited(request.endpoint)
                raise

    def _arm(self, loaded: LoadedArms, request: Request) -> Arm:
        if request.bundle_digest:
            for arm in loaded.arms:
                if arm.bundle_digest == request.bundle_digest and arm.role != ArmRole.ARM_ROLE_SHADOW:
                    return arm
            raise BundleNotServed(
                f"bundle {request.bundle_digest[:12]} has no arm on {request.endpoint!r}",
                [FieldViolation("model_version", "leave it empty, or name the champion or a challenger")],
            )
        routed = loaded.routes.arm(request.routing_key or request.request_id)
        assert routed is not None
        return routed

    async def _score_routed(self, loaded: LoadedArms, request: Request) -> tuple[Scored, bool]:
        """Score with the arm that the request is routed to, or the champion when that fails; return whether it did."""
        arm = self._arm(loaded, request)
        try:
            return await self._score(loaded, arm, request), False
        except Exception as error:
            champion = loaded.champion
            # What is wrong with the request is wrong for each arm.
            of_request = isinstance(error, LinealError) and not isinstance(error, BundleUnloadable)
            # Nor does who names a bundle want another's answer.
            if of_request or request.bundle_digest or champion is None or champion == arm:
                raise
            _logger.exception("arm %s failed, the champion answers instead", arm.bundle_digest[:12])
            return await self._score(loaded, champion, request), True

    async def _score(self, loaded: LoadedArms, arm: Arm, request: Request) -> Scored:
        given = request.columns
        scorer = self._scorers.held(arm.bundle_digest) or await self._scorers.get(arm.bundle_digest)
        started = time.perf_counter()
        looked_up, taken, values = NOTHING, _NOTHING_TAKEN, given
        try:
            if scorer.bundle.fetched:
                computing = on_demand(scorer.bundle, given)
                looked_up = await self._look_up(scorer, request, computing, loaded.lookup_seconds)
                values = {**looked_up.values, **given}
                taken = computing.take(values)
                values = {**computing.compute(taken), **values}
            vectors = assemble(scorer.bundle.columns, values, request.rows)
        except (ColumnMissing, ColumnMistyped) as error:
            raise _feature_invalid(scorer, given, error) from error
        check_deadline()
        assembled = time.perf_counter()
        if request.rows < (_THREAD_ROWS_COMPILED if scorer.compiled else _THREAD_ROWS):
            scores = scorer.score(vectors)
        else:
            scores = await asyncio.to_thread(scorer.score, vectors)
        return Scored(arm, scorer, vectors, scores, looked_up, taken, _micros(started, assembled), _micros(assembled))

    async def _look_up(self, scorer: Scorer, request: Request, computing: OnDemand, seconds: float | None) -> LookedUp:
        bundle = scorer.bundle
        wanted = (*bundle.columns, *computing.inputs)
        if all(column.source != "view" or column.name in request.columns for column in wanted):
            return NOTHING
        left = time_left()
        with deadline_in(left if seconds is None else min(seconds, math.inf if left is None else left)):
            return await self._lookups.get(
                bundle.feature_set,
                bundle.feature_set_version,
                bundle.entity_columns,
                {name: request.column(name) for name in bundle.entity_columns if name in request.columns},
                np.array(request.event_time_micros, dtype=np.int64),
                request.min_position,
            )

    def _describe(self, request: Request, answer: PredictResponse, latency: int, stages: Mapping[str, int]) -> None:
        """Tell the span and the histogram; `latency` and `stages` are in microseconds."""
        span = trace.get_current_span()
        context = span.get_span_context()
        key = request.endpoint, answer.bundle_digest
        self._durations.count(latency / 1e6, key, context if context.trace_flags.sampled else None)
        span.set_attributes(
            {
                "lineal.endpoint": request.endpoint,
                "lineal.request_id": request.request_id,
                "lineal.rows": request.rows,
                "lineal.arm": answer.arm,
                "lineal.bundle_digest": answer.bundle_digest,
                "lineal.generation": answer.generation,
                "lineal.feature_position": answer.feature_position,
                "lineal.predict_micros": latency,
                "lineal.flagged_rows": len(answer.flags),
                **stages,
            }
        )

    def _named(self, request: Request, known: PredictResponse) -> PredictResponse:
        """Complete an answer that was restored from its records, which do not repeat what is declared."""
        if known.fallback_cause and not known.fallback_reason:
            known.fallback_reason = self._arms.declared(request.endpoint)[0].fallback.reason
        if known.class_scores and not known.classes and known.bundle_digest:
            bundle = self._arms.get(request.endpoint).bundles.get(known.bundle_digest)
            known.classes.extend(bundle.classes if bundle else ())
        return known

    def _describe_repeated(self, known: PredictResponse) -> None:
        """End a span in the trace of the first call, which a kill of the process may have left without one."""
        if not known.trace_id:
            return
        here = trace.get_current_span().get_span_context()
        # The first call's own span is not known here; whoever draws the trace sees that a part of it is missing.
        first = SpanContext(int(known.trace_id, 16), here.span_id, is_remote=True, trace_flags=TraceFlags(1))
        parent = trace.set_span_in_context(NonRecordingSpan(first))
        attributes = {"lineal.request_id": known.request_id, "lineal.bundle_digest": known.bundle_digest}
        self._tracer.start_span("repeated answer", parent, attributes=attributes, links=[Link(here)]).end()

    def _mirror(self, loaded: LoadedArms, scored: Scored, request: Request) -> None:
        others = [arm for arm in loaded.arms if arm.bundle_digest != scored.arm.bundle_digest]
        if others and len(self._mirrors) < _MOST_MIRRORS:
            self._later(self._score_others(loaded, others, request))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._mirrors.add(task)
        task.add_done_callback(self._mirrors.discard)

    async def _score_others(self, loaded: LoadedArms, others: list[Arm], request: Request) -> None:
        found: list[MirroredScore] = []
        for arm in others:
            started = time.perf_counter()
            scores, failure = np.full(request.rows, np.nan), ""
            try:
                # The caller has its answer, so that its deadline is no matter here.
                with deadline_in(None):
                    scores = (await self._score(loaded, arm, request)).scores.answered
            except Exception as error:
                failure = str(error)[:500] or type(error).__name__
            latency = _micros(started)
            found += [
                MirroredScore(
                    prediction_id=f"{request.request_id}/{row}",
                    bundle_digest=arm.bundle_digest,
                    arm=ROLES[arm.role],
                    score=scores[row],
                    failure=failure,
                    latency_micros=latency,
                )
                for row in range(request.rows)
            ]
        self._recorder.mirror(found)


async def _flagged(guard: Guard, vectors: Vectors) -> list[RowFlags]:
    """Return what is unusual about rows."""
    # As lists, whose values guards take several times as fast.
    seen = vectors, vectors.numeric.tolist(), vectors.categorical.tolist()
    if len(vectors) < _THREAD_ROWS_COMPILED:
        return flags_of(guard.find(*seen))
    return flags_of(await asyncio.to_thread(guard.find, *seen))


def _micros(since: float, until: float | None = None) -> int:
    return int(((time.perf_counter() if until is None else until) - since) * 1e6)


def _feature_invalid(
    scorer: Scorer, given: Mapping[str, npt.NDArray[Any]], error: ColumnMissing | ColumnMistyped
) -> FeatureInvalid:
    if isinstance(error, ColumnMistyped):
        return FeatureInvalid(str(error), [FieldViolation(f"columns[{error.column}]", str(error))])
    needed = (*scorer.bundle.columns, *on_demand(scorer.bundle, given).inputs)
    missing = list(
        dict.fromkeys(column.name for column in needed if column.source == "request" and column.name not in given)
    ) or [error.column]
    return FeatureInvalid(
        f"features are missing: {', '.join(missing)}",
        [
            FieldViolation(f"columns[{name}]", "the bundle needs this column; send it, null where unknown")
            for name in missing
        ],
    )
