"""The record of a whole request says of each row what a record of its own would, byte for byte."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from lineal.api.features.v1.parity_pb2 import FeatureValue
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint, Fallback
from lineal.api.tabular.v1.flags_pb2 import RowFlags
from services.serving import fallback
from services.serving.answering import answer_of, records_of
from services.serving.arms import LoadedArms
from services.serving.lookups import LookedUp
from services.serving.request import Request, make
from services.serving.scored import Scored
from tabular.bundle import Bundle, ModelColumn, Problem
from tabular.request_records import expanded
from tabular.scorer import Scorer, Scores
from tabular.vectors import Vectors

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATENCY = 250
COLUMNS = (
    ModelColumn("amount", "numeric"),
    ModelColumn("rate", "numeric", "view"),
    ModelColumn("shop", "categorical", "view"),
)


class Deciding(Scorer):
    """A scorer without a model."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle


def scored(problem: Problem, rows: int, classes: tuple[str, ...] = ()) -> Scored:
    chance = np.random.default_rng(rows)
    numeric = chance.normal(size=(rows, 2))
    numeric[::3, 1] = np.nan
    shops = chance.choice(np.array(["a", "ü", "", "x" * 200], dtype=object), (rows, 1))
    raw = chance.normal(size=(rows, len(classes)) if classes else rows)
    if not classes:
        raw[0] = -0.0
    taken: dict[str, Any] = {}
    if problem == "binary":
        whens = np.array([np.datetime64("2026-03-01T00:00:00", "us"), np.datetime64("NaT", "us")] * rows)[:rows]
        taken = {"when": whens, "km": numeric[:, 1], "town": np.array(["a", None] * rows, dtype=object)[:rows]}
    bundle = Bundle(
        "m",
        problem,
        COLUMNS,
        {},
        entity_columns=("shop", "till"),
        label_key=("till", "day"),
        inputs=(ModelColumn("km", "numeric", "view"),),
        classes=classes,
    )
    calibrated = np.abs(raw) / np.abs(raw).sum(axis=1, keepdims=True) if classes else raw
    looked_up = LookedUp(position=77)
    arm = Arm(bundle_digest="b" * 64, role=ArmRole.ARM_ROLE_CHALLENGER)
    return Scored(arm, Deciding(bundle), Vectors(numeric, shops), Scores(raw, calibrated), looked_up, taken, 1, 1)


def request(rows: int, *, keyed: bool) -> Request:
    columns: dict[str, Any] = {"amount": np.zeros(rows), "rate": np.zeros(rows), "till": np.arange(rows)}
    if keyed:
        columns |= {"day": np.array(["mon", None] * rows, dtype=object)[:rows]}
        columns |= {"shop": np.array(["a", "b"] * rows, dtype=object)[:rows]}
    times = list(range(rows)) if keyed else []
    return make(endpoint="e", request_id="", routing_key="k", columns=columns, event_time_micros=times, now=NOW)


def value(column: str, given: Any) -> FeatureValue:
    if given is None or given != given:
        return FeatureValue(column=column)
    if column == "when":
        return FeatureValue(column=column, time_micros=int(given.astype(np.int64)))
    return FeatureValue(column=column, text=given) if column == "town" else FeatureValue(column=column, number=given)


def row_by_row(of: Scored, asked: Request, answer: Any, *, instead: bool) -> list[bytes]:
    """Return the records as rows have them that are recorded one by one."""
    keyed = "day" in asked.columns
    flags = {each.row: each for each in answer.flags}
    made = []
    for row in range(asked.rows):
        day = ("mon", "")[row % 2]
        entities = {"till": str(row)} | ({"shop": "ab"[row % 2]} if keyed else {})
        decision = answer.decisions[row] if answer.decisions else 0
        classes = len(of.scorer.bundle.classes)
        made.append(
            PredictionRecord(
                prediction_id=f"{asked.request_id}/{row}",
                endpoint="e",
                generation=3,
                arm="challenger",
                bundle_digest="b" * 64,
                unit="k",
                event_time_micros=row if keyed else int(NOW.timestamp() * 1e6),
                answer_time_micros=int(NOW.timestamp() * 1e6),
                raw_score=of.scores.raw[row, decision] if classes else of.scores.raw[row],
                score=answer.scores[row],
                decision=decision,
                numeric_values=of.vectors.numeric[row].tolist(),
                categorical_values=of.vectors.categorical[row].tolist(),
                feature_position=77,
                entities=entities,
                label_key=f"{row}\x1f{day}" if keyed else "",
                trace_id=answer.trace_id,
                latency_micros=LATENCY,
                fallback=instead,
                given_columns=["rate", "shop"] if keyed else ["rate"],
                inputs=[value(name, values[row]) for name, values in of.taken.items()],
                class_scores=answer.class_scores[row * classes : (row + 1) * classes],
                guard=answer.guard,
                flags=flags.get(row),
            )
        )
    return serialised(made)


def serialised(records: Sequence[PredictionRecord]) -> list[bytes]:
    return [record.SerializeToString(deterministic=True) for record in records]


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 2_500])
@pytest.mark.parametrize(
    ("problem", "classes"), [("binary", ()), ("regression", ()), ("multiclass", ("low", "mid", "high"))]
)
def test_a_request_is_recorded_as_its_rows_would_be(
    problem: Problem, classes: tuple[str, ...], rows: int, keyed: bool
) -> None:
    of, asked = scored(problem, rows, classes), request(rows, keyed=keyed)
    flags = [RowFlags(row=row, unseen=["shop"], rarity=9.5) for row in range(0, rows, 4)]
    loaded = LoadedArms(Endpoint(name="e"), 3, (), {})
    answer = answer_of(loaded, of, asked, flags if keyed else None)
    messages = records_of(of, asked, answer, NOW, LATENCY, champion_instead=keyed)
    parts = [whole for message in messages for whole in message.request_records]
    assert [len(each.scores) for each in parts] == [min(1_000, rows - start) for start in range(0, rows, 1_000)]
    found = [record for each in parts for record in expanded(each)]
    assert serialised(found) == row_by_row(of, asked, answer, instead=keyed)


def test_a_fallback_is_recorded_as_its_rows_would_be() -> None:
    asked = request(3, keyed=True)
    declared = Endpoint(name="e", fallback=Fallback(score=0.5, decision=1, reason="safe"))
    answer = fallback.answer_of(declared, 3, asked, "features")
    (message,) = fallback.records_of(asked, answer, scored("binary", 1).scorer.bundle, NOW, LATENCY)
    found = [record for each in message.request_records for record in expanded(each)]
    assert serialised(found) == serialised(
        [
            PredictionRecord(
                prediction_id=f"{asked.request_id}/{row}",
                endpoint="e",
                generation=3,
                arm="fallback",
                unit="k",
                event_time_micros=row,
                answer_time_micros=int(NOW.timestamp() * 1e6),
                score=0.5,
                decision=1,
                entities={"shop": "ab"[row % 2], "till": str(row)},
                label_key=f"{row}\x1f{('mon', '')[row % 2]}",
                latency_micros=LATENCY,
                fallback_cause="features",
            )
            for row in range(3)
        ]
    )
