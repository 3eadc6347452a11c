"""Labels: how a label dataset names rows, and how its values become outcomes."""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from lineal.api.features.v1.feature_set_pb2 import Label

_SEPARATOR = "\x1f"


def label_name(label: Label) -> str:
    """Return a name for dataset, key and column together: feature sets that share them share outcomes."""
    return json.dumps([label.dataset, list(label.key), label.column], separators=(",", ":"))


def keys_of(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """Return the label key of each row: the key columns' texts, joined by U+001F as serving joins them."""
    texts = [["" if value is None else str(value) for value in table[name].to_pylist()] for name in columns]
    return [_SEPARATOR.join(parts) for parts in zip(*texts, strict=True)]


def has_classes(label: Label | None) -> bool:
    """Tell whether outcomes are numbers of classes."""
    return label is not None and label.WhichOneof("rule") == "classes"


def outcomes(label: Label, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the outcome of each row from its `number` and `text`; NaN where none has come."""
    known = frame["number"].notna() | frame["text"].notna()
    rule = label.WhichOneof("rule")
    number = frame["number"].astype(float).to_numpy()
    if rule == "greater_than":
        value = (number > label.greater_than).astype(float)
    elif rule == "equals":
        value = (_as_text(frame) == label.equals).to_numpy().astype(float)
    elif rule == "classes":
        numbered = {text: number for number, text in enumerate(label.classes.values)}
        value = _as_text(frame).map(numbered).to_numpy(dtype=float)
    else:
        value = number.copy()
    value[~known.to_numpy()] = np.nan
    return np.asarray(value, dtype=np.float64)


def _as_text(frame: pd.DataFrame) -> "pd.Series[str]":
    numbers = frame["number"].map(lambda value: f"{value:g}", na_action="ignore")
    return frame["text"].where(frame["text"].notna(), numbers)
