"""Metrics of resamples are those that scikit-learn finds on the resampled rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    roc_auc_score,
    root_mean_squared_error,
)

from services.trainer import evaluation
from services.trainer.evaluation import Array, Resampling, difference, metrics

_SEEDS = st.integers(0, 2**32 - 1)


def _rows(seed: int, rows: int = 300, levels: int = 20) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    score = generator.integers(1, levels, rows) / levels
    return (generator.random(rows) < score).astype(float), score


@settings(max_examples=10)
@given(_SEEDS)
def test_each_draw_is_the_metric_of_its_rows(seed: int) -> None:
    label, score = _rows(seed)
    resampling = Resampling(len(label))
    measured, draws = metrics("binary", label, score, resampling)
    assert [metric.name for metric in measured] == ["auc", "average_precision", "brier", "log_loss", "ece"]
    for number in (0, 199):
        rows = np.repeat(np.arange(len(label)), list(resampling.counts())[number])
        drawn = {name: draw[1][number] for name, draw in draws.items()}
        assert drawn["auc"] == pytest.approx(roc_auc_score(label[rows], score[rows]))
        assert drawn["average_precision"] == pytest.approx(average_precision_score(label[rows], score[rows]))
        assert drawn["brier"] == pytest.approx(brier_score_loss(label[rows], score[rows]))
        assert drawn["log_loss"] == pytest.approx(log_loss(label[rows], score[rows]))
        assert 0 <= drawn["ece"] <= 1
    assert draws["auc"][0] == pytest.approx(roc_auc_score(label, score))


@settings(max_examples=10)
@given(_SEEDS)
def test_regression(seed: int) -> None:
    label, score = _rows(seed)
    resampling = Resampling(len(label))
    _, draws = metrics("regression", label, score, resampling)
    rows = np.repeat(np.arange(len(label)), list(resampling.counts())[7])
    assert draws["rmse"][1][7] == pytest.approx(root_mean_squared_error(label[rows], score[rows]))
    assert draws["mae"][1][7] == pytest.approx(mean_absolute_error(label[rows], score[rows]))


@settings(max_examples=5)
@given(_SEEDS)
def test_several_classes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    score = generator.dirichlet(np.ones(3), 200)
    label = np.array([generator.choice(3, p=row) for row in score], dtype=float)
    resampling = Resampling(len(label))
    measured, draws = metrics("multiclass", label, score, resampling)
    assert [metric.name for metric in measured] == ["accuracy", "auc", "brier", "log_loss"]
    rows = np.repeat(np.arange(len(label)), list(resampling.counts())[7])
    label, score = label[rows], score[rows]
    assert draws["accuracy"][1][7] == pytest.approx(accuracy_score(label, score.argmax(axis=1)))
    assert draws["auc"][1][7] == pytest.approx(roc_auc_score(label, score, multi_class="ovr"))
    assert draws["brier"][1][7] == pytest.approx(brier_score_loss(label, score, labels=[0, 1, 2]) / 2)
    assert draws["log_loss"][1][7] == pytest.approx(log_loss(label, score))


def test_two_classes_have_the_brier_score_of_one_probability() -> None:
    label, score = _rows(1)
    _, draws = metrics("multiclass", label, np.column_stack([1 - score, score]), Resampling(len(label)))
    assert draws["brier"][0] == pytest.approx(brier_score_loss(label, score))


def test_calibration_error_is_the_mean_distance_over_bins() -> None:
    generator = np.random.default_rng(3)
    score = generator.random(1003)
    label = (generator.random(1003) < score**2).astype(float)
    order = np.argsort(score)
    bins = np.array_split(order, 10)
    expected = sum(abs(label[b].mean() - score[b].mean()) * len(b) for b in bins) / len(score)
    assert evaluation.expected_calibration_error(label, score) == pytest.approx(expected)


def test_rows_of_one_class_have_no_auc() -> None:
    measured, _ = metrics("binary", np.ones(5), np.linspace(0.1, 0.9, 5), Resampling(5))
    assert np.isnan(measured[0].value)


def test_differences_are_paired() -> None:
    label, score = _rows(1, rows=2_000)
    resampling = Resampling(len(label))
    _, same = metrics("binary", label, score, resampling)
    assert all(metric.lower == metric.upper == 0 for metric in difference(same, same))
    _, noise = metrics("binary", label, np.random.default_rng(2).random(2_000), resampling)
    auc = difference(same, noise)[0]
    assert 0 < auc.lower < auc.value < auc.upper
