"""What a bundle's training rows looked like, and which rows do not look like them.

A column's rarity of a value is -ln of its tail probability among the training rows: of a number the two-sided one, as
ECOD has it (Li and others, "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative Distribution Functions",
2022), in steps of powers of two; of a category the share of rows whose category is as rare or rarer. A row's rarity
is the sum over columns (Fisher's combination of tail probabilities, 1932), so it takes columns as independent: it tells
rows with several unusual values, and not unusual combinations of usual ones.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import getitem
from typing import Any

import numpy as np
import numpy.typing as npt

from tabular.vectors import Vectors

FORMAT = 1
# More than any sum of rarities: a row whose sum reaches it has a value that no training row had.
_UNKNOWN = 1e9
# From here on arrays are quicker than a row after the other.
_BATCH_ROWS = 8
_LEAST = float("-inf")


class GuardUnreadable(ValueError):
    """Bytes that are not the guard of a bundle."""


@dataclass(frozen=True)
class NumberTable:
    """A column of numbers: a value above `cuts[i]` and up to `cuts[i + 1]` has the rarity `rarities[i]`.

    Outside of the first and the last cut lies what no training row had. `null_rarity` is None where none was null.
    """

    cuts: Sequence[float]
    rarities: Sequence[float]
    null_rarity: float | None = None


@dataclass(frozen=True)
class Finding:
    """What is unusual about a row: columns whose number is out of range, or whose value no training row had."""

    row: int
    out_of_range: Sequence[str]
    unseen: Sequence[str]
    rarity: float
    out_of_distribution: bool


class _Rarities(dict[str, float]):
    """Rarities of categories; a text that is not there has one that tells so."""

    def __init__(self, known: Mapping[str, float], unknown: float) -> None:
        super().__init__(known)
        self._unknown = unknown

    def __missing__(self, text: str) -> float:
        return self._unknown


class _Anything(dict[str, float]):
    """Rarities of a column with too many categories to be kept: nothing is said of its texts."""

    def __missing__(self, text: str) -> float:
        return 0.0


class _Layout:
    """The tables of a guard as lists for single rows and as arrays for many.

    The sum of a row is its rarity, or `_UNKNOWN` at least when there is a value that no training row had.
    """

    def __init__(
        self,
        edges: list[list[float]],
        weights: list[list[float]],
        texts: Sequence[dict[str, float]],
        nullable: bool,
    ) -> None:
        self._edges = edges
        self._weights = weights
        self._texts = texts
        # A column that has nulls has a place for NaN, in which -inf would be taken for one.
        self._nullable = nullable
        self._arrays = [(np.array(edge), np.array(weight)) for edge, weight in zip(edges, weights, strict=True)]

    def sum(self, numbers: Sequence[float], texts: Sequence[str]) -> float:
        """Return the sum of a row."""
        total: float = sum(map(getitem, self._weights, map(bisect_left, self._edges, numbers)))
        if self._texts:
            total += sum(map(getitem, self._texts, texts))
        return _UNKNOWN if self._nullable and _LEAST in numbers else total

    def sums(self, vectors: Vectors) -> npt.NDArray[np.float64]:
        """Return the sums of rows, of shape (rows,)."""
        total = np.zeros(len(vectors))
        for (edges, weights), column in zip(self._arrays, vectors.numeric.T, strict=True):
            places = edges.searchsorted(column)
            # Numpy sorts NaN behind everything.
            places[np.isnan(column)] = 0
            total += weights.take(places)
        for known, said in zip(self._texts, vectors.categorical.T.tolist(), strict=True):
            total += np.fromiter(map(known.__getitem__, said), np.float64, len(said))
        if self._nullable:
            total[(vectors.numeric == _LEAST).any(axis=1)] = _UNKNOWN
        return total


@dataclass(frozen=True)
class Guard:
    """Tables of the columns in the order of a model's vectors; `categories` is None for one that is not looked at.

    `rows` counts the training rows. A row is out of distribution when its rarity is above `limit`.
    """

    rows: int
    limit: float
    numbers: Mapping[str, NumberTable]
    categories: Mapping[str, Mapping[str, float] | None]
    _laid: _Layout = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Lay the tables out so that a row is a few look-ups and one sum."""
        unknown = _UNKNOWN + self._of_unknown
        tables = self.numbers.values()
        # Nothing is less than -inf, not even itself, and nothing compares with NaN: both come to the first place.
        edges = [[_LEAST, *table.cuts] for table in tables]
        weights = [
            [unknown if table.null_rarity is None else table.null_rarity, unknown, *table.rarities, unknown]
            for table in tables
        ]
        known = [_Anything() if each is None else _Rarities(each, unknown) for each in self.categories.values()]
        laid = _Layout(edges, weights, known, any(table.null_rarity is not None for table in tables))
        object.__setattr__(self, "_laid", laid)

    @property
    def _of_unknown(self) -> float:
        """The rarity of what no training row had: that of one row more."""
        return math.log(self.rows + 1)

    def find(
        self, vectors: Vectors, numbers: Sequence[Sequence[float]], texts: Sequence[Sequence[str]]
    ) -> Sequence[Finding]:
        """Return the rows about which something is unusual, in their order.

        `numbers` and `texts` are the vectors' values by row, as lists, which whoever records them has anyway.
        """
        laid = self._laid
        if len(numbers) == 1:
            if laid.sum(numbers[0], texts[0]) <= self.limit:
                return ()
            odd = [0]
        elif len(numbers) < _BATCH_ROWS:
            odd = [row for row, own in enumerate(numbers) if not laid.sum(own, texts[row]) <= self.limit]
        else:
            odd = np.flatnonzero(~(laid.sums(vectors) <= self.limit)).tolist()
        found = [self._finding(row, numbers[row], texts[row]) for row in odd]
        return [each for each in found if each.out_of_range or each.unseen or each.out_of_distribution]

    def rarities(self, vectors: Vectors) -> npt.NDArray[np.float64]:
        """Return the rarity of rows, of shape (rows,)."""
        sums = self._laid.sums(vectors)
        odd = np.flatnonzero(sums >= _UNKNOWN)
        for row in odd.tolist():
            sums[row] = self._finding(row, vectors.numeric[row].tolist(), vectors.categorical[row].tolist()).rarity
        return sums

    def _finding(self, row: int, numbers: Sequence[float], texts: Sequence[str]) -> Finding:
        out_of_range, unseen, rarity = [], [], 0.0
        for (name, table), number in zip(self.numbers.items(), numbers, strict=True):
            if number != number:
                if table.null_rarity is None:
                    unseen.append(name)
                else:
                    rarity += table.null_rarity
                continue
            place = bisect_left(table.cuts, number)
            if 0 < place < len(table.cuts):
                rarity += table.rarities[place - 1]
            else:
                out_of_range.append(name)
        for (name, known), text in zip(self.categories.items(), texts, strict=True):
            if known is not None and text not in known:
                unseen.append(name)
            elif known is not None:
                rarity += known[text]
        rarity += (len(out_of_range) + len(unseen)) * self._of_unknown
        return Finding(row, out_of_range, unseen, rarity, rarity > self.limit)

    def to_json(self) -> dict[str, Any]:
        """Return the guard as plain values, which the file of a bundle has as canonical JSON."""
        return {
            "format": FORMAT,
            "rows": self.rows,
            "limit": self.limit,
            "numbers": {
                name: {"cuts": list(table.cuts), "rarities": list(table.rarities), "null_rarity": table.null_rarity}
                for name, table in self.numbers.items()
            },
            "categories": {name: None if known is None else dict(known) for name, known in self.categories.items()},
        }

    @classmethod
    def from_bytes(cls, data: bytes, numeric: Sequence[str], categorical: Sequence[str]) -> "Guard":
        """Read a guard for vectors of these columns, in their order. Raises GuardUnreadable."""
        try:
            fields = json.loads(data)
            if fields["format"] != FORMAT:
                raise GuardUnreadable(f"it has format {fields['format']}, this version reads {FORMAT}")
            numbers = {name: NumberTable(**fields["numbers"][name]) for name in numeric}
            if not all(0 < len(table.rarities) == len(table.cuts) - 1 or not table.cuts for table in numbers.values()):
                raise GuardUnreadable("a column has not one rarity between two cuts")
            return cls(
                rows=int(fields["rows"]),
                limit=float(fields["limit"]),
                numbers=numbers,
                categories={name: fields["categories"][name] for name in categorical},
            )
        except GuardUnreadable:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GuardUnreadable(f"not the guard of this bundle: {error!r}") from error
