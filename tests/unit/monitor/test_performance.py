import math

import numpy as np
import pandas as pd
import pytest

from lineal.api.features.v1.feature_set_pb2 import Classes, Label
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from services.monitor.labels import outcomes
from services.monitor.performance import by_arm

LABEL = Label(classes=Classes(values=["low", "7", "high"]))


def test_outcomes_of_several_classes_are_their_numbers() -> None:
    frame = pd.DataFrame({"number": [np.nan, 7.0, np.nan, np.nan], "text": ["high", None, "new", None]})
    np.testing.assert_array_equal(outcomes(LABEL, frame), [2.0, 1.0, np.nan, np.nan])


def test_several_classes_are_measured_by_how_often_the_decision_was_right() -> None:
    decided, outcome = [2, 1, 0, 0], [2.0, 0.0, 0.0, np.nan]
    frame = pd.DataFrame(
        {
            "arm": "champion",
            "bundle_digest": "d",
            "score": [0.9, 0.5, 0.7, 0.7],
            "outcome": outcome,
            "record": [PredictionRecord(decision=each).SerializeToString() for each in decided],
        }
    )
    [found] = by_arm(frame, LABEL)
    assert (found.predictions, found.outcomes) == (4, 3)
    assert found.accuracy == pytest.approx(2 / 3)
    assert all(math.isnan(each) for each in (found.auc, found.brier, found.outcome_mean))
    assert found.score_mean == pytest.approx(0.7)
    [binary] = by_arm(frame.assign(outcome=[1.0, 0.0, 1.0, np.nan]), Label(greater_than=0))
    assert not binary.HasField("accuracy")
    assert binary.brier == pytest.approx((0.01 + 0.25 + 0.09) / 3)


def test_what_a_fallback_answered_is_nobodys_performance() -> None:
    frame = pd.DataFrame(
        {
            "arm": ["champion", "fallback", "champion"],
            "bundle_digest": ["d", "", "d"],
            "score": [0.9, 1.0, 0.2],
            "outcome": [1.0, 0.0, 0.0],
        }
    )
    [found] = by_arm(frame, Label(greater_than=0))
    assert (found.arm, found.predictions) == ("champion", 2)
    assert found.brier == pytest.approx((0.01 + 0.04) / 2)
    assert by_arm(frame[1:2], Label(greater_than=0)) == []
