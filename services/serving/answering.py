"""What is answered and recorded of scored rows."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from opentelemetry import trace

from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord, RequestRecord, RowTexts
from lineal.api.registry.v1.endpoint_pb2 import ArmRole
from lineal.api.serving.v1.serving_service_pb2 import PredictResponse
from lineal.api.tabular.v1.flags_pb2 import GuardState, RowFlags
from services.serving.arms import LoadedArms
from services.serving.request import LABEL_KEY_SEPARATOR, Request
from services.serving.scored import Scored
from tabular.bundle import Bundle
from tabular.guard import Finding
from tabular.on_demand import recorded

ROLES = {
    ArmRole.ARM_ROLE_CHAMPION: "champion",
    ArmRole.ARM_ROLE_CHALLENGER: "challenger",
    ArmRole.ARM_ROLE_SHADOW: "shadow",
}


# So many rows lie in one message, since a message must not grow with the largest request.
_RECORD_ROWS = 1_000


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
        field_statuses=scored.looked_up.statuses,
        trace_id=f"{context.trace_id:032x}" if context.is_valid else "",
        classes=scorer.bundle.classes,
        class_scores=scored.scores.calibrated.reshape(-1).tolist() if scorer.bundle.classes else (),
        guard=GuardState.GUARD_STATE_UNKNOWN if flags is None else GuardState.GUARD_STATE_CHECKED,
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
) -> list[RequestRecord]:
    """Return the record of a request, in parts of so many rows; `latency` is in microseconds."""
    bundle = scored.scorer.bundle
    common = common_of(request, answer, now, latency)
    common.fallback = champion_instead
    common.given_columns.extend(
        dict.fromkeys(
            column.name
            for column in (*bundle.columns, *bundle.inputs)
            if column.source != "request" and column.name in request.columns
        )
    )
    vectors = scored.vectors
    raw = scored.raw_of(answer.decisions).tolist()
    records = []
    for whole in parts_of(request, answer, common, bundle):
        rows = slice(whole.first_row, whole.first_row + len(whole.scores))
        whole.raw_scores.extend(raw[rows])
        whole.numeric_values.extend(vectors.numeric[rows].reshape(-1).tolist())
        whole.categorical_values.extend(vectors.categorical[rows].reshape(-1).tolist())
        if scored.taken:
            for row in range(rows.start, rows.stop):
                whole.inputs.extend(recorded(scored.taken, row))
        records.append(whole)
    return records


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


def parts_of(
    request: Request, answer: PredictResponse, common: PredictionRecord, bundle: Bundle | None
) -> Iterable[RequestRecord]:
    """Yield what is recorded of any answer, in parts of so many rows, with the keys that a bundle takes of each row."""
    entities = _texts(request, bundle.entity_columns) if bundle else {}
    label_keys = _label_keys(request, bundle.label_key) if bundle else []
    classes = len(answer.class_scores) // request.rows
    for start in range(0, request.rows, _RECORD_ROWS):
        rows = slice(start, start + _RECORD_ROWS)
        yield RequestRecord(
            request_id=request.request_id,
            first_row=start,
            common=common,
            event_time_micros=request.event_time_micros[rows],
            scores=answer.scores[rows],
            decisions=answer.decisions[rows],
            entities=[RowTexts(column=name, values=values[rows]) for name, values in entities.items()],
            label_keys=label_keys[rows],
            class_scores=answer.class_scores[start * classes : rows.stop * classes],
            flags=[each for each in answer.flags if rows.start <= each.row < rows.stop],
        )


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
