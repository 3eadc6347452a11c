# mypy: disable-error-code="import-not-found"
"""Save a CatBoost model as MLflow wants it: `python mlflow_model.py MODEL FOLDER`, for `mlflow models serve`."""

import sys

import catboost
import mlflow.catboost


def main(model: str, folder: str) -> None:
    """Save the model."""
    loaded = catboost.CatBoostClassifier()
    loaded.load_model(model)
    mlflow.catboost.save_model(loaded, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
