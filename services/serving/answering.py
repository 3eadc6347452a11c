"""What is answered and recorded of scored rows."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from opentelemetry import trace

from lineal.api.monitor.v1.monitor_service_pb2 import RecordPredictionsRequest
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord, RowTexts
from lineal.api.registry.v1.endpoint_pb2 import ArmRole
from lineal.api.serving.v1.serving_service_pb2 import PredictResponse
from lineal.api.tabular.v1.flags_pb2 import GuardState, RowFlags
from services.serving.arms import LoadedArms
from services.serving.request import LABEL_KEY_SEPARATOR, Request
from services.serving.scored import Scored
from tabular.bundle import Bundle
from tabular.guard import Finding
from tabular.on_demand import recorded

T = TypeVar("T")

ROLES = {
    ArmRole.ARM_ROLE_CHAMPION: "champion",
    ArmRole.ARM_ROLE_CHALLENGER: "challenger",
    ArmRole.ARM_ROLE_SHADOW: "shadow",
}


_RECORD_ROWS = 1_000
_CHECKED, _UNKNOWN = GuardState.GUARD_STATE_CHECKED, GuardState.GUARD_STATE_UNKNOWN


def flags_of(findings: Sequence[Finding]) -> list[RowFlags]:
    """Return findings as answers and records have them."""
    return [
        RowFlags(
            row=each.row,
            out_of_range=each.out_of_range,
            unseen=each.unseen,
            rarity=each.rarity,
            out_of_distribution=each.out_of_distribution,
        )
        for each in findings
    ]


def answer_of(
    loaded: LoadedArms, scored: Scored, request: Request, flags: Sequence[RowFlags] | None
) -> PredictResponse:
    """Return the answer; `flags` is None where nothing is known of them."""
    scorer = scored.scorer
    context = trace.get_current_span().get_span_context()
    return PredictResponse(
        request_id=request.request_id,
        prediction_ids=request.prediction_ids(),
        scores=scored.scores.answered.tolist(),
        decisions=scorer.decide(scored.scores.calibrated).tolist() if scorer.bundle.problem != "regression" else (),
        bundle_digest=scored.arm.bundle_digest,
        arm=ROLES[scored.arm.role],
        generation=loaded.generation,
        feature_position=scored.looked_up.position,
        field_statuses=scored.looked_up.statuses or None,
        trace_id=f"{context.trace_id:032x}" if context.is_valid else "",
        classes=scorer.bundle.classes or None,
        class_scores=scored.scores.calibrated.reshape(-1).tolist() if scorer.bundle.classes else None,
        guard=_UNKNOWN if flags is None else _CHECKED,
        flags=flags,
    )


def records_of(
    scored: Scored,
    request: Request,
    answer: PredictResponse,
    now: datetime,
    latency: int,
    *,
    champion_instead: bool,
) -> list[RecordPredictionsRequest]:
    """Return the record of a request as it goes to monitor; `latency` is in microseconds."""
    common = common_of(request, answer, now, latency)
    bundle, vectors = scored.scorer.bundle, scored.vectors
    if champion_instead:
        common.fallback = True
    if bundle.fetched:
        common.given_columns.extend([name for name in bundle.fetched if name in request.columns])
    messages = messages_of(request, answer, common, bundle)
    raw = scored.raw_of(answer.decisions).tolist()
    numbers, texts = vectors.numeric.reshape(-1).tolist(), vectors.categorical.reshape(-1).tolist()
    for message in messages:
        whole = message.request_records[0]
        start, end = whole.first_row, whole.first_row + _RECORD_ROWS
        whole.raw_scores.extend(raw[start:end])
        whole.numeric_values.extend(_rows(numbers, start, end, request.rows))
        whole.categorical_values.extend(_rows(texts, start, end, request.rows))
        if scored.taken:
            for row in range(start, min(end, request.rows)):
                whole.inputs.extend(recorded(scored.taken, row))
    return messages


def common_of(request: Request, answer: PredictResponse, now: datetime, latency: int) -> PredictionRecord:
    """Return what the records of all rows of an answer have alike; `latency` is in microseconds."""
    return PredictionRecord(
        endpoint=request.endpoint,
        generation=answer.generation,
        arm=answer.arm,
        bundle_digest=answer.bundle_digest,
        unit=request.routing_key,
        answer_time_micros=int(now.timestamp() * 1e6),
        feature_position=answer.feature_position,
        trace_id=answer.trace_id,
        latency_micros=latency,
        guard=answer.guard,
        fallback_cause=answer.fallback_cause,
    )


def messages_of(
    request: Request, answer: PredictResponse, common: PredictionRecord, bundle: Bundle | None
) -> list[RecordPredictionsRequest]:
    """Return what is recorded of any answer, with the keys that a bundle takes of each row.

    Each message has the record of so many rows, since none is to grow with the largest request.
    """
    entities = _texts(request, bundle.entity_columns) if bundle else {}
    label_keys = _label_keys(request, bundle.label_key) if bundle else []
    messages = []
    for start in range(0, request.rows, _RECORD_ROWS):
        end = start + _RECORD_ROWS
        messages.append(message := RecordPredictionsRequest())
        whole = message.request_records.add(
            request_id=request.request_id,
            first_row=start,
            common=common,
            event_time_micros=request.event_time_micros[start:end],
            scores=answer.scores[start:end],
            decisions=answer.decisions[start:end],
        )
        if entities or label_keys:
            whole.entities.extend([RowTexts(column=name, values=texts[start:end]) for name, texts in entities.items()])
            whole.label_keys.extend(label_keys[start:end])
        if answer.class_scores:
            whole.class_scores.extend(_rows(answer.class_scores, start, end, request.rows))
        if answer.flags:
            whole.flags.extend([each for each in answer.flags if start <= each.row < end])
    return messages


def _rows(values: Sequence[T], start: int, end: int, rows: int) -> Sequence[T]:
    """Return the values of some rows, of which all have as many."""
    width = len(values) // rows
    return values[start * width : end * width]


def _label_keys(request: Request, names: tuple[str, ...]) -> list[str]:
    if not names or not all(name in request.columns for name in names):
        return []
    texts = _texts(request, names)
    return [LABEL_KEY_SEPARATOR.join(values) for values in zip(*(texts[name] for name in names), strict=True)]


def _texts(request: Request, names: tuple[str, ...]) -> dict[str, list[str]]:
    return {
        name: ["" if value is None else str(value) for value in request.columns[name].tolist()]
        for name in names
        if name in request.columns
    }
