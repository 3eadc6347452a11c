"""Score vectors with a bundle's CatBoost model."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import catboost
import numpy as np
import numpy.typing as npt

from tabular.applier import agrees, proven, rows_of
from tabular.bundle import Bundle, Calibrator, ModelColumn, Problem
from tabular.guard import Guard
from tabular.vectors import Vectors

CATBOOST_VERSION: str = catboost.__version__
# Rows served that a compiled applier is compared on before it answers.
_COMPARED_ROWS = 2_000


class ModelUnreadable(ValueError):
    """A file that CatBoost cannot load."""


@dataclass(frozen=True)
class Scores:
    """What a model says of rows: `raw` as it leaves the trees, `calibrated` as answered.

    Float64 of shape (rows,), of a multi-class model (rows, classes).
    """

    raw: npt.NDArray[np.float64]
    calibrated: npt.NDArray[np.float64]

    @property
    def answered(self) -> npt.NDArray[np.float64]:
        """One number per row: of several classes the probability of the likeliest."""
        return self.calibrated if self.calibrated.ndim == 1 else self.calibrated.max(axis=1)


class Scorer:
    """A loaded model with its bundle's calibration. Safe for use by several threads."""

    def __init__(
        self, bundle: Bundle, model_file: bytes, *, compiled: bool = False, guard: Guard | None = None
    ) -> None:
        """Load a model; `compiled` scores with a compiled applier where that gives CatBoost's own numbers.

        `guard` is the bundle's, None for a bundle without one.
        A damaged file may crash the process inside CatBoost: examine unknown bytes in another process first.
        Raises ModelUnreadable when CatBoost refuses the file or its features are not the manifest's columns.
        """
        self.bundle = bundle
        self.guard = guard
        self._model = load(model_file)
        names = list(self._model.feature_names_)
        if names != [column.name for column in bundle.columns]:
            raise ModelUnreadable("the model's features are not the columns of the manifest")
        # CatBoost's fast input takes numbers first, then categories; other orders go row by row.
        types = [column.type for column in bundle.columns]
        self._ordered = types == sorted(types, key=lambda kind: kind == "categorical")
        self._applier = proven(model_file, bundle.columns, self._model.get_borders(), self._own) if compiled else None
        self._compared = 0

    def score(self, vectors: Vectors) -> Scores:
        """Score rows; one thread, so that a request costs its own core only."""
        raw = self._raw(vectors)
        if self.bundle.problem == "regression":
            return Scores(raw, raw)
        if self.bundle.problem == "multiclass":
            return Scores(raw, softmax(raw))
        return Scores(raw, probability(self.bundle.calibrator, raw))

    def decide(self, calibrated: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
        """Return 1 where the score reaches the threshold, of several classes the likeliest; all 0 for a regression."""
        if self.bundle.problem == "regression":
            return np.zeros(len(calibrated), dtype=np.uint32)
        if self.bundle.problem == "multiclass":
            likeliest: npt.NDArray[np.uint32] = calibrated.argmax(axis=1).astype(np.uint32)
            return likeliest
        return (calibrated >= self.bundle.threshold).astype(np.uint32)

    def contributions(self, vectors: Vectors) -> npt.NDArray[np.float64]:
        """Return what each column adds to rows' raw scores, and last what is expected without them.

        Of shape (rows, columns + 1), of a multi-class model (rows, classes, columns + 1); the last axis sums up to the
        raw score. Path-dependent TreeSHAP: Lundberg and others,
        "Consistent Individualized Feature Attribution for Tree Ensembles", 2018, algorithm 2.
        """
        categorical = None if self._ordered else self._model.get_cat_feature_indices()
        pool = catboost.Pool(self._input(vectors), cat_features=categorical)
        found = self._model.get_feature_importance(pool, type="ShapValues", thread_count=1)
        return np.asarray(found, dtype=np.float64)

    def borders(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return what the trees split numeric columns at: the score of a row changes only where a number passes one."""
        names = [column.name for column in self.bundle.columns]
        return {names[index]: np.array(at, dtype=np.float32) for index, at in self._model.get_borders().items()}

    @property
    def compiled(self) -> bool:
        """Whether the compiled applier scores."""
        return self._applier is not None

    def _raw(self, vectors: Vectors) -> npt.NDArray[np.float64]:
        applier = self._applier
        if applier is None:
            return self._own(vectors)
        if self._compared < _COMPARED_ROWS:
            # Of the texts that it learnt from a model keeps hashes alone, so only real rows show that these agree.
            self._compared += len(vectors)
            own = self._own(vectors)
            if not agrees(applier, vectors, own):
                self._applier = None
            return own
        return applier(vectors)

    def _own(self, vectors: Vectors) -> npt.NDArray[np.float64]:
        return np.asarray(
            self._model.predict(self._input(vectors), prediction_type="RawFormulaVal", thread_count=1), dtype=np.float64
        )

    def _input(self, vectors: Vectors) -> "catboost.FeaturesData | list[list[object]]":
        return features_data(vectors) if self._ordered else rows_of(vectors, self.bundle.columns)


def features_data(vectors: Vectors) -> "catboost.FeaturesData":
    """Return CatBoost's fast input: float32 numbers, which it would make of doubles itself, and categories as bytes."""
    categories = None
    if vectors.categorical.shape[1]:
        categories = np.empty(vectors.categorical.shape, dtype=object)
        flat = categories.reshape(-1)
        flat[:] = [text.encode() for text in vectors.categorical.reshape(-1)]
    numbers = np.ascontiguousarray(vectors.numeric, dtype=np.float32) if vectors.numeric.shape[1] else None
    return catboost.FeaturesData(num_feature_data=numbers, cat_feature_data=categories)


def probability(calibrator: Calibrator, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the calibrated probability of class 1."""
    value: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-(calibrator.slope * raw + calibrator.intercept)))
    return value


def softmax(raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the probabilities of classes, of shape (rows, classes) as the raw scores are."""
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def load(model_file: bytes) -> "catboost.CatBoost":
    """Load a model. Raises ModelUnreadable."""
    model = catboost.CatBoost()
    try:
        model.load_model(blob=model_file)
    except Exception as error:
        raise ModelUnreadable(f"CatBoost cannot load the file: {error}") from error
    return model


def describe(model: "catboost.CatBoost") -> tuple[Problem, tuple[ModelColumn, ...], tuple[str, ...]]:
    """Return the problem, the columns and, where there are several, the classes of a model that was trained elsewhere.

    Raises ModelUnreadable for problems that bundles do not cover.
    """
    classes = tuple(str(name) for name in getattr(model, "classes_", ()))
    loss = model.get_all_params().get("loss_function")
    if len(classes) > 2 and loss != "MultiClass":
        raise ModelUnreadable(
            f"a model of {len(classes)} classes with the loss {loss} cannot be served; fit MultiClass"
        )
    categorical = set(model.get_cat_feature_indices())
    if model.get_text_feature_indices() or model.get_embedding_feature_indices():
        raise ModelUnreadable("models with text or embedding features cannot be served")
    columns = tuple(
        ModelColumn(name, "categorical" if index in categorical else "numeric")
        for index, name in enumerate(model.feature_names_)
    )
    if loss == "MultiClass":
        return "multiclass", columns, classes
    return ("binary" if len(classes) == 2 else "regression"), columns, ()


def canonical_digest(model: "catboost.CatBoost") -> str:
    """Return the SHA-256 of a model without its id and time of training.

    Two fits of the same data with the same settings give the same digest, although their files differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        exported = json.loads(path.read_bytes())
    exported.pop("model_info", None)
    return hashlib.sha256(json.dumps(exported, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
