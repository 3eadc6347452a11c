"""What is answered and recorded of scored rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from opentelemetry import trace

from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
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


@dataclass(frozen=True)
class Listed:
    """The vectors of rows as Python's own lists: messages and guards take their values several times as fast."""

    numbers: list[list[float]]
    texts: list[list[str]]


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
    listed: Listed,
    request: Request,
    answer: PredictResponse,
    now: datetime,
    latency: int,
    *,
    champion_instead: bool,
) -> list[PredictionRecord]:
    """Return a record per row; `latency` is in microseconds."""
    bundle = scored.scorer.bundle
    given = list(
        dict.fromkeys(
            column.name
            for column in (*bundle.columns, *bundle.inputs)
            if column.source != "request" and column.name in request.columns
        )
    )
    micros = int(now.timestamp() * 1e6)
    decisions = answer.decisions or [0] * request.rows
    raw = scored.raw_of(decisions).tolist()
    classes = len(bundle.classes)
    flags = {each.row: each for each in answer.flags}
    return [
        PredictionRecord(
            prediction_id=answer.prediction_ids[row],
            endpoint=request.endpoint,
            generation=answer.generation,
            arm=answer.arm,
            bundle_digest=answer.bundle_digest,
            unit=request.routing_key,
            event_time_micros=request.event_time_micros[row],
            answer_time_micros=micros,
            raw_score=raw[row],
            score=answer.scores[row],
            decision=decisions[row],
            numeric_values=listed.numbers[row],
            categorical_values=listed.texts[row],
            feature_position=answer.feature_position,
            entities=entities,
            label_key=label_key,
            trace_id=answer.trace_id,
            latency_micros=latency,
            fallback=champion_instead,
            given_columns=given,
            inputs=recorded(scored.taken, row),
            class_scores=answer.class_scores[row * classes : (row + 1) * classes] if classes else None,
            guard=answer.guard,
            flags=flags.get(row),
        )
        for row, (entities, label_key) in enumerate(keys_by_row(request, bundle))
    ]


def keys_by_row(request: Request, bundle: Bundle | None) -> list[tuple[dict[str, str], str]]:
    """Return the entity keys and the label key that each row brings, for what a bundle takes of them."""
    if bundle is None:
        return [({}, "")] * request.rows
    entities = _texts(request, bundle.entity_columns)
    labels = _texts(request, bundle.label_key) if all(key in request.columns for key in bundle.label_key) else {}
    return [
        (
            {name: values[row] for name, values in entities.items()},
            LABEL_KEY_SEPARATOR.join(labels[key][row] for key in bundle.label_key) if labels else "",
        )
        for row in range(request.rows)
    ]


def _texts(request: Request, names: tuple[str, ...]) -> dict[str, list[str]]:
    return {
        name: ["" if value is None else str(value) for value in request.columns[name].tolist()]
        for name in names
        if name in request.columns
    }
