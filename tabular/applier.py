"""A compiled applier of CatBoost models (pylignum), for as long as its numbers are CatBoost's own.

CatBoost's call takes about fifty times as long for one row. The library is young, so nothing of it is believed: it is
compared at load on rows made of the model's own borders, and a `Scorer` compares it again on the first rows served.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from typing import Protocol

import lignum
import numpy as np
import numpy.typing as npt

from tabular.bundle import ModelColumn
from tabular.vectors import Vectors

_logger = logging.getLogger(__name__)
_ROWS = 4_000
_SPECIAL_SHARE = 0.1
_SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-44, 16_777_217.0)
_TEXTS = ("", "a", "b", "A", "0", "1", "-1", "1.5", "nan", "None", "true", "ü", "東京", "a b", "x" * 300)


class RawScore(Protocol):
    """Raw scores of rows, float64 of shape (rows,), of a multi-class model (rows, classes)."""

    def __call__(self, vectors: Vectors) -> npt.NDArray[np.float64]:
        """Score rows."""


class Applier:
    """A model as pylignum applies it. Safe for use by several threads."""

    def __init__(self, model_file: bytes, columns: Sequence[ModelColumn]) -> None:
        """Load a model. Raises RuntimeError or ValueError for models that the library does not know."""
        self._columns = columns
        self._texts = any(column.type == "categorical" for column in columns)
        with tempfile.NamedTemporaryFile(suffix=".cbm") as file:
            file.write(model_file)
            file.flush()
            self._model = lignum.load(file.name, format="catboost")

    def __call__(self, vectors: Vectors) -> npt.NDArray[np.float64]:
        """Score rows in this thread."""
        rows = rows_of(vectors, self._columns) if self._texts else vectors.numeric
        raw: npt.NDArray[np.float64] = self._model.predict(rows, raw_score=True, n_jobs=1, strategy="serial")
        return raw


def proven(
    model_file: bytes, columns: Sequence[ModelColumn], borders: Mapping[int, Sequence[float]], own: RawScore
) -> Applier | None:
    """Return the applier of a model when it scores as `own` does, bit for bit; None when it does not, or cannot.

    `borders` are those that the model's trees split numbers at, by the index of the feature.
    """
    try:
        applier = Applier(model_file, columns)
    except (RuntimeError, ValueError) as error:
        _logger.info("CatBoost itself scores this model: %s", error)
        return None
    vectors = trial_rows(columns, borders)
    return applier if agrees(applier, vectors, own(vectors)) else None


def agrees(applier: Applier, vectors: Vectors, own: npt.NDArray[np.float64]) -> bool:
    """Tell whether an applier scores rows as CatBoost itself did, bit for bit."""
    try:
        same = np.array_equal(applier(vectors), own, equal_nan=True)
    except (RuntimeError, ValueError, TypeError) as error:
        _logger.error("the compiled applier fails where CatBoost answers, which scores from here on: %s", error)
        return False
    if not same:
        _logger.error("the compiled applier differs from CatBoost, which scores from here on")
    return same


def trial_rows(columns: Sequence[ModelColumn], borders: Mapping[int, Sequence[float]]) -> Vectors:
    """Return rows that lie at the model's borders, just beside them and between, with what numbers can be besides."""
    chance = np.random.default_rng(0)
    numeric, categorical = [], []
    for index, column in enumerate(columns):
        if column.type == "categorical":
            categorical.append(chance.choice(np.array(_TEXTS, dtype=object), _ROWS))
            continue
        at = np.array([*borders.get(index, ()), 0.0], dtype=np.float32)
        # Nulls of their own branch have the least float for a border, beside which lies infinity.
        with np.errstate(over="ignore"):
            beside = [np.nextafter(at, np.float32(side)) for side in (np.inf, -np.inf)]
        known = np.concatenate([at, *beside, at + chance.normal(size=len(at)).astype(np.float32)]).astype(np.float64)
        values = chance.choice(known, _ROWS)
        special = chance.random(_ROWS) < _SPECIAL_SHARE
        values[special] = chance.choice(_SPECIAL, special.sum())
        numeric.append(values)
    empty = np.empty((0, _ROWS))
    return Vectors(np.array(numeric or empty).T.copy(), np.array(categorical or empty, dtype=object).T.copy())


def rows_of(vectors: Vectors, columns: Sequence[ModelColumn]) -> list[list[object]]:
    """Return rows as lists in the order of the columns."""
    numbers, texts = iter(vectors.numeric.T.tolist()), iter(vectors.categorical.T.tolist())
    by_column = [next(numbers if column.type == "numeric" else texts) for column in columns]
    return [list(row) for row in zip(*by_column, strict=True)]
