"""Records of predictions: spooled before the answer, sent to monitor in batches, counted always."""

import asyncio
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from chassis.errors import Unavailable
from lineal.api.monitor.v1.monitor_service_pb2 import RecordPredictionsRequest
from lineal.api.monitor.v1.prediction_pb2 import MirroredScore, PredictionRecord
from lineal.api.serving.v1.serving_service_pb2 import EndpointCounters, PredictResponse
from lineal.api.tabular.v1.flags_pb2 import GuardState
from services.serving.spool import Spool, SpoolFull
from tabular.request_records import expanded

_logger = logging.getLogger(__name__)
_BATCH_BYTES = 1 << 20
# Longer would save some of a core, and who proves what was answered just now would not find it.
_LINGER_SECONDS = 0.05
_BACKOFF_SECONDS = (0.2, 2.0)
_ANSWERS = 20_000
_UNKNOWN = GuardState.GUARD_STATE_UNKNOWN
# A client may repeat a request as long as this after its answer was recorded, also across a restart.
_KEEP_SECONDS = 120.0

# Returns how many predictions monitor has taken.
Send = Callable[[RecordPredictionsRequest], Awaitable[int]]


class CannotRecord(Unavailable):
    """A strict endpoint refuses rather than leave a prediction unrecorded."""


class RecordsNotTaken(Unavailable):
    """Monitor has answered, but has not taken every record."""


@dataclass
class _Counts:
    served: int = 0
    logged: int = 0
    dropped: int = 0
    failed_requests: int = 0
    limited_requests: int = 0
    out_of_range: int = 0
    unseen: int = 0
    out_of_distribution: int = 0
    unguarded: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)

    def tell(self, answer: PredictResponse) -> None:
        """Count what is unusual about an answer, or its rows."""
        if answer.fallback_cause:
            self.fallbacks[answer.fallback_cause] += len(answer.prediction_ids)
        if answer.guard == _UNKNOWN:
            self.unguarded += len(answer.prediction_ids)
        for flags in answer.flags:
            self.out_of_range += bool(flags.out_of_range)
            self.unseen += bool(flags.unseen)
            self.out_of_distribution += flags.out_of_distribution


class Recorder:
    """served = logged + dropped + queued, always; and answers of late, for requests that are repeated."""

    def __init__(self, replica_id: str, spool: Spool, send: Send) -> None:
        self._replica_id = replica_id
        self._spool = spool
        self._send = send
        self._counts: dict[str, _Counts] = {}
        self._answers: OrderedDict[str, PredictResponse] = OrderedDict()
        self._waiting = asyncio.Event()
        self._place = (0, 0)
        self._exhausted: deque[tuple[float, int]] = deque()
        # Records of an earlier life of this replica: sent again, not counted again.
        self._recovered = self._recover()

    def answered(self, request_id: str) -> PredictResponse | None:
        """Return the answer that a request has had, None when it is new."""
        return self._answers.get(request_id)

    def record(
        self, endpoint: str, records: Sequence[RecordPredictionsRequest], answer: PredictResponse, *, strict: bool
    ) -> None:
        """Spool the records of an answer before it is sent.

        Raises CannotRecord on a strict endpoint when they cannot be written; elsewhere they are counted as dropped.
        """
        rows = len(answer.prediction_ids)
        counts = self._of(endpoint)
        try:
            self._append(records)
        except SpoolFull as error:
            if strict:
                raise CannotRecord(f"the prediction cannot be recorded, so it is refused: {error}") from error
            _logger.error("%d predictions of %s are not recorded: %s", rows, endpoint, error)
            counts.dropped += rows
        counts.served += rows
        counts.tell(answer)
        self._remember(answer)

    def mirror(self, scores: Sequence[MirroredScore]) -> None:
        """Spool scores of arms that did not answer; what cannot be written is left out."""
        try:
            self._append([RecordPredictionsRequest(mirrored_scores=scores)])
        except SpoolFull as error:
            _logger.error("%d mirrored scores are not recorded: %s", len(scores), error)

    def failed(self, endpoint: str) -> None:
        """Count a request that got no answer."""
        self._of(endpoint).failed_requests += 1

    def limited(self, endpoint: str) -> None:
        """Count a request that was refused because its caller was over a limit."""
        self._of(endpoint).limited_requests += 1

    def counters(self) -> list[EndpointCounters]:
        """Return the counts since this replica started."""
        return [
            EndpointCounters(
                endpoint=name,
                served=counts.served,
                logged=counts.logged,
                dropped=counts.dropped,
                queued=counts.served - counts.logged - counts.dropped,
                failed_requests=counts.failed_requests,
                limited_requests=counts.limited_requests,
                out_of_range=counts.out_of_range,
                unseen=counts.unseen,
                out_of_distribution=counts.out_of_distribution,
                unguarded=counts.unguarded,
                fallbacks=counts.fallbacks,
            )
            for name, counts in sorted(self._counts.items())
        ]

    async def run(self) -> None:
        """Send what is spooled, in order, for ever; monitor may be away as long as the spool has room."""
        pause, longest = _BACKOFF_SECONDS
        sent = 0
        while True:
            await self._waiting.wait()
            # A short wait lets a batch gather, each of which costs as much as some requests; full ones go on at once.
            if sent < _BATCH_BYTES // 2:
                await asyncio.sleep(_LINGER_SECONDS)
            self._waiting.clear()
            try:
                sent = await self._send_batch()
                if sent:
                    self._waiting.set()
                pause = _BACKOFF_SECONDS[0]
            except Exception as error:
                _logger.warning("records wait in the spool, monitor does not take them: %s", error)
                self._waiting.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)

    async def drain(self) -> None:
        """Send what is spooled now, if monitor takes it; the next start sends the rest."""
        try:
            while await self._send_batch():
                pass
        except Exception as error:
            _logger.warning("records stay in the spool until the next start: %s", error)

    async def _send_batch(self) -> int:
        """Send the oldest frames; return their bytes, 0 when there are none."""
        frames, *place = await asyncio.to_thread(self._spool.read, *self._place, _BATCH_BYTES)
        if not frames:
            return 0
        # Serialised messages that are joined are one message with all their elements.
        data = b"".join(frames)
        batch = RecordPredictionsRequest.FromString(data)
        batch.replica_id = self._replica_id
        rows = _rows_of(batch)
        taken = await self._send(batch)
        if taken != rows.total():
            raise RecordsNotTaken(f"it took {taken} of {rows.total()} predictions; monitor must be as new as serving")
        self._sent(rows, (place[0], place[1]))
        return len(data)

    def _append(self, requests: Sequence[RecordPredictionsRequest]) -> None:
        self._spool.append(*[request.SerializeToString() for request in requests])
        self._waiting.set()

    def _sent(self, rows: "Counter[str]", place: tuple[int, int]) -> None:
        for endpoint, count in rows.items():
            old = min(count, self._recovered[endpoint])
            self._recovered[endpoint] -= old
            self._of(endpoint).logged += count - old
        now = time.monotonic()
        if place[0] != self._place[0]:
            self._exhausted.append((now, place[0]))
        self._place = place
        while self._exhausted and self._exhausted[0][0] < now - _KEEP_SECONDS:
            self._spool.release(self._exhausted.popleft()[1])

    def _of(self, endpoint: str) -> _Counts:
        counts = self._counts.get(endpoint)
        if counts is None:
            counts = self._counts[endpoint] = _Counts()
        return counts

    def _remember(self, answer: PredictResponse) -> None:
        self._answers[answer.request_id] = answer
        while len(self._answers) > _ANSWERS:
            self._answers.popitem(last=False)

    def _recover(self) -> "Counter[str]":
        found: Counter[str] = Counter()
        place = (0, 0)
        while True:
            frames, *place_after = self._spool.read(*place, _BATCH_BYTES)
            if not frames:
                break
            place = (place_after[0], place_after[1])
            for frame in frames:
                request = RecordPredictionsRequest.FromString(frame)
                found += _rows_of(request)
                for record in _predictions_of(request):
                    self._restore(record)
        if found:
            self._waiting.set()
        return found

    def _restore(self, record: PredictionRecord) -> None:
        request_id, _, row = record.prediction_id.rpartition("/")
        answer = self._answers.get(request_id)
        if answer is None or row == "0":
            answer = PredictResponse(
                request_id=request_id,
                bundle_digest=record.bundle_digest,
                arm=record.arm,
                generation=record.generation,
                feature_position=record.feature_position,
                trace_id=record.trace_id,
                guard=record.guard,
                fallback_cause=record.fallback_cause,
            )
        answer.prediction_ids.append(record.prediction_id)
        answer.scores.append(record.score)
        answer.decisions.append(record.decision)
        answer.class_scores.extend(record.class_scores)
        if record.HasField("flags"):
            answer.flags.append(record.flags)
        self._remember(answer)


def _rows_of(batch: RecordPredictionsRequest) -> "Counter[str]":
    """Count the predictions of a batch by endpoint; single ones are those of a version before."""
    rows = Counter(record.endpoint for record in batch.predictions)
    for whole in batch.request_records:
        rows[whole.common.endpoint] += len(whole.scores)
    return rows


def _predictions_of(request: RecordPredictionsRequest) -> Iterator[PredictionRecord]:
    yield from request.predictions
    for whole in request.request_records:
        yield from expanded(whole)
