import tempfile
from pathlib import Path

import catboost
import numpy as np
import pytest

from tabular.applier import Applier, agrees, proven, trial_rows
from tabular.bundle import Bundle
from tabular.scorer import ModelUnreadable, Scorer, describe, load
from tabular.vectors import Vectors

ROWS = 600
TEXTS = ["shop", "city"]


def model_file(loss: str, seed: int = 1, **settings: object) -> bytes:
    """Fit on two numbers and two texts, which stand between them."""
    chance = np.random.default_rng(seed)
    amount, age = chance.normal(size=ROWS), chance.normal(size=ROWS)
    age[chance.random(ROWS) < 0.1] = np.nan
    shop, city = chance.choice(["a", "b", ""], ROWS), chance.choice([f"c{n}" for n in range(40)], ROWS)
    label = amount + (shop == "b") + chance.normal(size=ROWS)
    rows = list(zip(amount, shop, age, city, strict=True))
    pool = catboost.Pool(
        [list(row) for row in rows],
        label
        if loss == "RMSE"
        else np.digitize(label, [0.0, 1.0])
        if loss.startswith("Multi")
        else (label > 0).astype(int),
        cat_features=[1, 3],
        feature_names=["amount", "shop", "age", "city"],
    )
    model = catboost.CatBoost(
        {
            "loss_function": loss,
            "iterations": 30,
            "thread_count": 1,
            "random_seed": seed,
            "allow_writing_files": False,
            **settings,
        }
    )
    model.fit(pool, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cbm"
        model.save_model(str(path))
        return path.read_bytes()


def bundle(data: bytes) -> Bundle:
    problem, columns, classes = describe(load(data))
    return Bundle(model="shop", problem=problem, columns=columns, files={}, classes=classes)


def served(rows: int, seed: int = 2) -> Vectors:
    """Return rows with nulls, texts that were learnt and texts that were not."""
    chance = np.random.default_rng(seed)
    numeric = chance.normal(size=(rows, 2))
    numeric[chance.random(numeric.shape) < 0.1] = np.nan
    texts = [
        chance.choice(np.array(["a", "b", "", "new"], dtype=object), rows),
        chance.choice(np.array([f"c{n}" for n in range(60)], dtype=object), rows),
    ]
    return Vectors(numeric, np.array(texts, dtype=object).T)


def test_a_loss_of_several_classes_that_softmax_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelUnreadable, match="3 classes with the loss MultiClassOneVsAll cannot be served"):
        describe(load(model_file("MultiClassOneVsAll")))


def test_two_classes_fitted_as_several_have_a_score_each() -> None:
    data = model_file("MultiClass", classes_count=3)
    scores = Scorer(bundle(data), data).score(served(5))
    assert scores.raw.shape == (5, 3)
    np.testing.assert_allclose(scores.calibrated.sum(axis=1), 1.0)
    np.testing.assert_array_equal(scores.answered, scores.calibrated.max(axis=1))


@pytest.mark.parametrize("loss", ["Logloss", "RMSE", "MultiClass"])
def test_scores_are_catboosts_own_bit_for_bit(loss: str) -> None:
    data = model_file(loss)
    own, compiled = Scorer(bundle(data), data), Scorer(bundle(data), data, compiled=True)
    assert compiled.compiled
    assert not own.compiled
    # More than are compared, so the last come from the applier alone.
    for part in range(6):
        rows = served(500, seed=part)
        np.testing.assert_array_equal(compiled.score(rows).raw, own.score(rows).raw)
    assert compiled.compiled


def test_an_applier_that_differs_never_answers() -> None:
    data, other = model_file("Logloss"), model_file("Logloss", seed=9)
    own = Scorer(bundle(data), data)
    wrong = Applier(other, own.bundle.columns)
    borders = load(data).get_borders()
    rows = trial_rows(own.bundle.columns, borders)
    assert not agrees(wrong, rows, own.score(rows).raw)
    assert proven(other, own.bundle.columns, borders, lambda vectors: own.score(vectors).raw) is None


def test_a_model_that_the_applier_does_not_know_is_scored_by_catboost() -> None:
    data = model_file("RMSE", grow_policy="Lossguide")
    scorer = Scorer(bundle(data), data, compiled=True)
    assert not scorer.compiled
    rows = served(10)
    np.testing.assert_array_equal(scorer.score(rows).raw, Scorer(bundle(data), data).score(rows).raw)


def test_trial_rows_lie_at_the_borders_beside_them_and_where_nothing_is_known() -> None:
    data = model_file("RMSE")
    made = bundle(data)
    borders = load(data).get_borders()
    rows = trial_rows(made.columns, borders)
    assert rows.numeric.shape == (4_000, 2)
    assert np.isin(np.array(borders[0], dtype=np.float64), rows.numeric[:, 0]).all()
    assert np.isnan(rows.numeric).any()
    assert "" in rows.categorical
