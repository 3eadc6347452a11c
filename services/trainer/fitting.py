"""Fit and tune CatBoost models: the one module that trains with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import catboost
import numpy as np
import numpy.typing as npt
import optuna
from sklearn.linear_model import LogisticRegression

from lineal.api.trainer.v1.run_pb2 import Parameters
from services.trainer.evaluation import expected_calibration_error
from tabular.bundle import Calibrator, ModelColumn, Problem
from tabular.scorer import canonical_digest, features_data, probability
from tabular.vectors import Vectors

Array = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]
_CALIBRATE_ABOVE = 0.01
_SHAP_ROWS = 2_000
_LOSSES: dict[Problem, str] = {"binary": "Logloss", "regression": "RMSE", "multiclass": "MultiClass"}


class FitFailed(ValueError):
    """CatBoost cannot fit these rows."""


@dataclass(frozen=True)
class Labelled:
    """Rows with their labels."""

    vectors: Vectors
    label: Array


@dataclass(frozen=True)
class Fitted:
    """A fitted model as its file, with what belongs into the bundle beside it."""

    model_file: bytes
    model_digest: str
    trees: int
    calibrator: Calibrator
    threshold: float
    importance: list[tuple[str, float]]
    trials: list[dict[str, Any]]


def fit(
    problem: Problem,
    classes: int,
    columns: tuple[ModelColumn, ...],
    train: Labelled,
    validation: Labelled,
    parameters: Parameters,
    progress: Progress,
) -> Fitted:
    """Search if asked, fit with early stopping on the validation rows, calibrate and set the threshold on them.

    The same rows, parameters and seed give the same `model_digest`. `classes` is how many a multi-class problem has, 0
    for others. Raises FitFailed.
    """
    pools = _pool(columns, train), _pool(columns, validation)
    settings = _settings(problem, classes, parameters)
    trials: list[dict[str, Any]] = []
    if parameters.trials:
        settings, trials = _search(settings, pools, parameters, progress)
    model = catboost.CatBoost(settings)
    callback = _Rounds(lambda done: progress("fitting", done, parameters.iterations))
    try:
        model.fit(pools[0], eval_set=pools[1], callbacks=[callback], verbose=False)
    except catboost.CatBoostError as error:
        raise FitFailed(f"CatBoost cannot fit these rows: {error}") from error
    raw = np.asarray(model.predict(pools[1], prediction_type="RawFormulaVal"), dtype=np.float64)
    calibrator = Calibrator()
    threshold = 0.5
    if problem == "binary":
        progress("calibrating", 0, 1)
        calibrator = calibrate(raw, validation.label)
        threshold = best_threshold(probability(calibrator, raw), validation.label)
    progress("explaining", 0, 1)
    return Fitted(
        model_file=bytes(model._serialize_model()),
        model_digest=canonical_digest(model),
        trees=model.tree_count_,
        calibrator=calibrator,
        threshold=threshold,
        importance=_importance(model, columns, validation),
        trials=trials,
    )


def calibrate(raw: Array, label: Array) -> Calibrator:
    """Fit a sigmoid (Platt 1999) on validation rows where the model's own probabilities are off by more than 0.01 ECE.

    A sigmoid keeps the ranking, so it never costs AUC.
    """
    own = Calibrator()
    if expected_calibration_error(label, probability(own, raw)) <= _CALIBRATE_ABOVE or label.min() == label.max():
        return own
    fitted = LogisticRegression(C=np.inf).fit(raw.reshape(-1, 1), label)
    return Calibrator(slope=float(fitted.coef_[0, 0]), intercept=float(fitted.intercept_[0]))


def best_threshold(score: Array, label: Array) -> float:
    """Return the threshold with the greatest F1 on these rows; 0.5 when they hold one class only."""
    if label.min() == label.max():
        return 0.5
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(label[order])
    f1 = 2 * hits / (np.arange(1, len(label) + 1) + label.sum())
    return float(score[order][int(np.argmax(f1))])


class _Rounds:
    """CatBoost calls this after each round."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def after_iteration(self, info: Any) -> bool:
        """Report; True goes on."""
        if info.iteration % 10 == 0:
            self._report(info.iteration)
        return True


def _settings(problem: Problem, classes: int, parameters: Parameters) -> dict[str, Any]:
    # The number of classes, since the rows to learn from may lack one of them.
    known = {"classes_count": classes} if classes else {}
    return known | {
        "loss_function": _LOSSES[problem],
        "iterations": parameters.iterations,
        "depth": parameters.depth,
        "learning_rate": parameters.learning_rate,
        "l2_leaf_reg": parameters.l2_leaf_reg,
        "early_stopping_rounds": parameters.early_stopping_rounds,
        "max_ctr_complexity": parameters.max_ctr_complexity,
        "border_count": parameters.border_count,
        "random_seed": parameters.seed,
        "thread_count": parameters.threads,
        "allow_writing_files": False,
        "use_best_model": True,
    }


def _search(
    settings: dict[str, Any],
    pools: "tuple[catboost.Pool, catboost.Pool]",
    parameters: Parameters,
    progress: Progress,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Every default that may change between versions of Optuna is set, so that a search can be repeated.
    sampler = optuna.samplers.TPESampler(
        seed=parameters.seed, n_startup_trials=10, n_ei_candidates=24, multivariate=True, constant_liar=False
    )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    loss = settings["loss_function"]
    trials = []
    for number in range(parameters.trials):
        progress("searching", number, parameters.trials)
        trial = study.ask()
        tried = settings | {
            "depth": trial.suggest_int("depth", 3, 10),
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
            "l2_leaf_reg": trial.suggest_float("l2_leaf_reg", 1.0, 30.0, log=True),
            "random_strength": trial.suggest_float("random_strength", 0.1, 10.0, log=True),
        }
        model = catboost.CatBoost(tried).fit(pools[0], eval_set=pools[1], verbose=False)
        value = float(model.get_best_score()["validation"][loss])
        study.tell(trial, value)
        trials.append({"number": number, "parameters": trial.params, "loss": value, "trees": model.tree_count_})
    return settings | study.best_params, trials


def _pool(columns: tuple[ModelColumn, ...], rows: Labelled) -> "catboost.Pool":
    pool = catboost.Pool(features_data(rows.vectors), rows.label)
    pool.set_feature_names([column.name for column in columns])
    return pool


def _importance(
    model: "catboost.CatBoost", columns: tuple[ModelColumn, ...], rows: Labelled
) -> list[tuple[str, float]]:
    """Return the mean absolute SHAP value (Lundberg et al. 2018) per column, in raw score, greatest first.

    Of several classes it is the mean over them, too.
    """
    sample = slice(0, _SHAP_ROWS)
    values = model.get_feature_importance(
        _pool(columns, Labelled(rows.vectors.take(sample), rows.label[sample])), type="ShapValues"
    )
    mean = np.abs(np.asarray(values)[..., :-1]).reshape(-1, len(columns)).mean(axis=0)
    return sorted(((column.name, float(mean[index])) for index, column in enumerate(columns)), key=lambda x: -x[1])
