"""Fit the guard of a bundle: tables of its training rows, and a limit from its validation rows."""

from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tabular.bundle import Bundle
from tabular.guard import Guard, NumberTable
from tabular.vectors import Vectors

# Of validation rows one in two hundred is above the limit.
_LIMIT_QUANTILE = 0.995
# A column with more is one of ids: that a text is new says nothing of its row, and the table would fill memories.
_MOST_CATEGORIES = 50_000


def fit(bundle: Bundle, learnt: Vectors, validated: Vectors) -> Guard:
    """Return the guard of a bundle that was fitted on rows and validated on others."""
    numbers = {name: _numbers(learnt.numeric[:, index]) for index, name in enumerate(bundle.numeric)}
    categories = {name: _categories(learnt.categorical[:, index]) for index, name in enumerate(bundle.categorical)}
    guard = Guard(rows=len(learnt), limit=0.0, numbers=numbers, categories=categories)
    return replace(guard, limit=float(np.quantile(guard.rarities(validated), _LIMIT_QUANTILE)))


def _numbers(values: npt.NDArray[np.float64]) -> NumberTable:
    nulls = np.isnan(values)
    null_rarity = abs(float(np.log(nulls.mean()))) if nulls.any() else None
    with np.errstate(over="ignore"):
        known = np.sort(values[np.isfinite(values.astype(np.float32))])
    if not len(known):
        return NumberTable([], [], null_rarity)
    count = len(known)
    # As many rows as a half of them, a quarter, an eighth ... lie up to these values, and above them.
    depths = np.ceil(count / 2.0 ** np.arange(1, int(np.log2(count)) + 2)).astype(np.int64)
    inner = known[np.concatenate([depths - 1, count - depths - 1])]
    # A client may send single precision, in which CatBoost compares numbers, too: as far as that the ends are blurred.
    ends = known[[0, -1]].astype(np.float32)
    least, most = ends + np.spacing(np.abs(ends)) * np.array([-1.0, 1.0])
    cuts = np.unique(np.concatenate([[least], inner[inner < known[-1]], [most]]))
    below = np.searchsorted(known, cuts, side="right") / count
    tails = np.minimum(1.0, 2.0 * np.minimum(below[1:], 1.0 - below[:-1]))
    return NumberTable(cuts.tolist(), np.abs(np.log(tails)).tolist(), null_rarity)


def _categories(values: npt.NDArray[np.object_]) -> dict[str, float] | None:
    counts = Counter(values.tolist())
    if len(counts) > _MOST_CATEGORIES:
        return None
    sizes = np.array(sorted(counts.values()))
    as_rare = np.cumsum(sizes)
    places = np.searchsorted(sizes, list(counts.values()), side="right") - 1
    rarities = np.abs(np.log(as_rare[places] / as_rare[-1]))
    return dict(zip(counts, rarities.tolist(), strict=True))
