"""Search for the fewest and smallest changes of a row that change its decision. The same each time, and bounded."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MOST_SCORED = 50_000
# What is left makes the changes smaller that were found.
_SCORED_TO_FIND = 40_000
_MOST_CHANGES = 4
# Options of a column that are tried together with other columns'.
_FRONT = 8
# Changes without a flip that one more column is added to.
_BEAM = 32


class Option(NamedTuple):
    """A value that a column may be changed to; `distance` is the share of the population that is passed."""

    column: int
    distance: float
    value: float | str


Changes = tuple[Option, ...]
# How near each is to a changed decision, the greater the nearer, and whether it has changed.
Score = Callable[[Sequence[Changes]], tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]


@dataclass
class Search:
    """One search: `options` are those of each column, `score` scores changes of the row."""

    options: Sequence[Sequence[Option]]
    score: Score
    scored: int = 0
    exhausted: bool = False
    _flips: set[Changes] = field(default_factory=set)

    def run(self, most: int) -> list[Changes]:
        """Return at most so many changes, each of other columns: the fewest columns first, then the smallest.

        Of one column all values are tried, of two those that bring most for their distance, of more those that add to
        what brought most so far. No change that is returned can be taken back or made smaller alone, unless the search
        is exhausted.
        """
        level = self._try([(option,) for options in self.options for option in options], _SCORED_TO_FIND)
        front: list[Option] = []
        for count in range(1, _MOST_CHANGES):
            flipped = [_columns(changes) for changes in _different(self._flips)]
            if len(flipped) >= most:
                break
            # More columns than such as are enough would never be returned.
            level = {c: near for c, near in level.items() if not any(enough <= _columns(c) for enough in flipped)}
            if count == 1:
                front = _front(level)
                level = {(option,): level[(option,)] for option in front}
            kept = len(level) if count == 1 else _BEAM
            shorter = heapq.nsmallest(kept, level, key=lambda c: (-level[c], c))
            level = self._try(_longer(shorter, front), _SCORED_TO_FIND)
        # A few more than are asked for, since what is made smaller may come to the same columns.
        found = {self._smallest(changes) for changes in _different(self._flips)[: 2 * most]}
        return _different(found)[:most]

    def _try(self, changes: Sequence[Changes], limit: int = MOST_SCORED) -> dict[Changes, float]:
        """Score changes and note those that change the decision; return how near each is.

        What would make it more than `limit` rows in all is left out.
        """
        asked = changes[: max(limit - self.scored, 0)]
        self.exhausted |= len(asked) < len(changes)
        if not asked:
            return {}
        self.scored += len(asked)
        near, flips = self.score(asked)
        self._flips.update(each for each, flip in zip(asked, flips.tolist(), strict=True) if flip)
        return dict(zip(asked, near.tolist(), strict=True))

    def _smallest(self, changes: Changes) -> Changes:
        """Take changes back, or make them smaller, one at a time, for as long as the decision stays changed."""
        while True:
            smaller = []
            for number, changed in enumerate(changes):
                others = changes[:number] + changes[number + 1 :]
                if others:
                    smaller.append(others)
                nearer = (each for each in self.options[changed.column] if each.distance < changed.distance)
                smaller += [tuple(sorted((*others, each))) for each in nearer]
            found = [each for each in self._try(smaller) if each in self._flips]
            if not found:
                return changes
            changes = min(found, key=_size)


def _front(gains: dict[Changes, float]) -> list[Option]:
    """Return of each column the options that no nearer one brings more than, thinned evenly."""
    columns: dict[int, list[Option]] = {}
    best: dict[int, float] = {}
    for (option,) in sorted(gains):
        gain = gains[(option,)]
        if gain > best.get(option.column, -np.inf):
            best[option.column] = gain
            columns.setdefault(option.column, []).append(option)
    chosen: list[Option] = []
    for options in columns.values():
        places = np.linspace(0, len(options) - 1, min(len(options), _FRONT)).round().astype(int)
        chosen += [options[place] for place in places]
    return chosen


def _longer(level: Sequence[Changes], front: Sequence[Option]) -> list[Changes]:
    """Return changes with one more column each, every one once, in the order of the shorter ones."""
    made: dict[Changes, None] = {}
    for changes in level:
        columns = _columns(changes)
        for option in front:
            if option.column not in columns:
                made[tuple(sorted((*changes, option)))] = None
    return list(made)


def _different(flips: Iterable[Changes]) -> list[Changes]:
    """Return the smallest changes of each set of columns, without those that change what a smaller set does, too."""
    chosen: dict[frozenset[int], Changes] = {}
    for changes in sorted(flips, key=_size):
        columns = _columns(changes)
        if not any(smaller <= columns for smaller in chosen):
            chosen[columns] = changes
    return list(chosen.values())


def _size(changes: Changes) -> tuple[int, float, Changes]:
    return len(changes), sum(option.distance for option in changes), changes


def _columns(changes: Changes) -> frozenset[int]:
    return frozenset(option.column for option in changes)
