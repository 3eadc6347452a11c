# mypy: disable-error-code="import-not-found,untyped-decorator"
"""A service for BentoML that scores with CatBoost; `BENTOML_MODEL` is the model file."""

import os
from typing import Any

import bentoml
import catboost


@bentoml.service(workers=1)
class Service:
    """One worker."""

    def __init__(self) -> None:
        self._model = catboost.CatBoostClassifier()
        self._model.load_model(os.environ["BENTOML_MODEL"])

    @bentoml.api
    def predict(self, rows: list[list[Any]]) -> list[float]:
        """Return the probability of class 1 for each row."""
        scores: list[float] = self._model.predict_proba(rows)[:, 1].tolist()
        return scores
