from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from services.trainer import fairness
from services.trainer.card import card
from tabular.bundle import Bundle

ROWS = 400
GENERATOR = np.random.default_rng(3)
SCORE = GENERATOR.random(ROWS)
LABEL = (GENERATOR.random(ROWS) < SCORE).astype(float)
SEX = np.array(["f", "m"])[GENERATOR.integers(0, 2, ROWS)]


def binary(values: Sequence[object]) -> fairness.Groups:
    return fairness.compare("binary", LABEL, SCORE, 0.6, "sex", values)


def test_each_group_has_the_metrics_of_its_rows() -> None:
    found = binary(SEX.tolist())
    assert [group.value for group in found.groups] == ["f", "m"]
    for group in found.groups:
        mine = group.value == SEX
        label, score = LABEL[mine], SCORE[mine]
        told = {metric.name: metric for metric in group.metrics}
        assert group.rows == mine.sum()
        assert told["base_rate"].value == pytest.approx(label.mean())
        assert told["selection_rate"].value == pytest.approx((score >= 0.6).mean())
        assert told["true_positive_rate"].value == pytest.approx(recall_score(label, score >= 0.6))
        assert told["false_positive_rate"].value == pytest.approx((score >= 0.6)[label == 0].mean())
        assert told["auc"].value == pytest.approx(roc_auc_score(label, score))
        assert all(metric.lower <= metric.value <= metric.upper for metric in group.metrics)


def test_differences_are_those_of_the_best_and_the_worst_group() -> None:
    found = binary(SEX.tolist())
    rates = {name: [m.value for g in found.groups for m in g.metrics if m.name == name] for name in NAMES}
    told = {metric.name: metric.value for metric in found.differences}
    selected, hits, others = (rates[name] for name in NAMES)
    assert told["demographic_parity_difference"] == pytest.approx(max(selected) - min(selected))
    assert told["demographic_parity_ratio"] == pytest.approx(min(selected) / max(selected))
    assert told["equal_opportunity_difference"] == pytest.approx(max(hits) - min(hits))
    gaps = [max(each) - min(each) for each in (hits, others)]
    assert told["equalized_odds_difference"] == pytest.approx(max(gaps))


NAMES = ("selection_rate", "true_positive_rate", "false_positive_rate")


def test_small_groups_are_not_told_and_missing_values_are_a_group() -> None:
    values = ["rare"] * (fairness.LEAST_ROWS - 1) + [None] * 40 + ["common"] * (ROWS - 69)
    found = binary(values)
    assert [(group.value, group.rows) for group in found.groups] == [("common", 331), ("unknown", 40)]
    assert found.suppressed == 1
    assert not any("rare" in metric.name for metric in found.metrics())


def test_one_group_alone_differs_from_nothing() -> None:
    assert binary(["f"] * ROWS).differences == []


def test_what_cannot_be_said_is_left_out() -> None:
    never = np.where(SEX == "f", 0.0, LABEL)
    found = fairness.compare("binary", never, SCORE, 0.6, "sex", SEX.tolist())
    names = {metric.name for metric in found.metrics()}
    assert "selection_rate{sex=f}" in names
    assert not {"auc{sex=f}", "true_positive_rate{sex=f}", "equal_opportunity_difference{sex}"} & names


def test_a_regression_is_compared_by_its_errors() -> None:
    found = fairness.compare("regression", LABEL, SCORE, 0.5, "sex", SEX.tolist())
    errors = [np.abs(SCORE - LABEL)[name == SEX].mean() for name in ("f", "m")]
    told = {metric.name: metric.value for metric in found.metrics()}
    assert told["mae_difference{sex}"] == pytest.approx(abs(errors[0] - errors[1]))


def test_several_classes_are_compared_by_how_often_they_are_right() -> None:
    scores = np.column_stack([1 - SCORE, SCORE / 2, SCORE / 2])
    found = fairness.compare("multiclass", LABEL, scores, 0.5, "sex", SEX.tolist())
    right = [(scores.argmax(axis=1) == LABEL)[name == SEX].mean() for name in ("f", "m")]
    told = {metric.name: metric.value for metric in found.metrics()}
    assert told["accuracy_difference{sex}"] == pytest.approx(abs(right[0] - right[1]))


def test_the_card_has_a_table_of_each_attribute() -> None:
    found = binary([*SEX[:-1].tolist(), "x"])
    bundle = Bundle("m", "binary", (), {}, metrics=tuple(found.metrics()))
    text = card(bundle, description="", rows={}, parameters={}, trees=1, importance=[], groups=[found])
    assert "## By sex" in text
    assert "| f |" in text
    assert "demographic_parity_ratio" in text
    assert "Of 1 groups with fewer than 30" in text
    assert "{sex" not in text
