"""What the columns of a row may be changed to: values that others have, as a policy allows them."""

from collections.abc import Container, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lineal.api.registry.v1.explanation_pb2 import ExplanationPolicy
from services.serving.search import Option
from tabular.bundle import ModelColumn
from tabular.vectors import Vectors

# Of a column's values, evenly thinned; CatBoost's own default is as many borders.
_MOST_OPTIONS = 256


def options_of(
    columns: Sequence[ModelColumn],
    row: Vectors,
    population: Vectors,
    borders: Mapping[str, npt.NDArray[np.float32]],
    policy: ExplanationPolicy,
    fixed: Container[str],
) -> list[list[Option]]:
    """Return the options of each column, nearest first: none of those that are `fixed` or immutable.

    Between two of a number's `borders` there is one option, the nearest value that a row of the population has, since
    all values there score the same; of a column without any entry all values count.
    """
    places = {"numeric": 0, "categorical": 0}
    found = []
    for number, column in enumerate(columns):
        kind, name = column.type, column.name
        place = places[kind]
        places[kind] += 1
        options: Iterator[Option] = iter(())
        if name in fixed or name in policy.immutable_columns:
            pass
        elif kind == "numeric":
            current, observed = float(row.numeric[0, place]), population.numeric[:, place]
            options = _numbers(number, current, observed, borders.get(name), _directions(policy, name))
        elif name not in policy.growing_columns and name not in policy.falling_columns:
            options = _texts(number, row.categorical[0, place], population.categorical[:, place])
        found.append(_thinned(sorted(options)))
    return found


def _directions(policy: ExplanationPolicy, name: str) -> tuple[bool, bool]:
    """Tell whether a column may grow, and whether it may fall."""
    return name not in policy.falling_columns, name not in policy.growing_columns


def _numbers(
    number: int,
    current: float,
    observed: npt.NDArray[np.float64],
    borders: npt.NDArray[np.float32] | None,
    directions: tuple[bool, bool],
) -> Iterator[Option]:
    grows, falls = directions
    known = np.sort(observed[np.isfinite(observed)])
    null = np.isnan(current)
    if not len(known) or (null and not (grows and falls)):
        # Whether a value is more or less than null, nobody can say.
        return
    values = np.unique(known)
    values = values[values != current]
    if not null:
        values = values[((values > current) & grows) | ((values < current) & falls)]
    distances = np.ones(len(values)) if null else np.abs(_rank(known, values) - _rank(known, np.array([current])))
    near = np.abs(_rank(known, values) - 0.5) if null else distances
    if borders is None:
        yield from map(Option, [number] * len(values), distances.tolist(), values.tolist())
        return
    # As the trees compare: in float32, and a number on a border lies below it.
    sides = np.searchsorted(borders, values.astype(np.float32), side="left")
    own = -1 if null else int(np.searchsorted(borders, np.float32(current), side="left"))
    for side in np.unique(sides[sides != own]):
        there = np.flatnonzero(sides == side)
        nearest = there[np.argmin(near[there])]
        yield Option(number, float(distances[nearest]), float(values[nearest]))


def _texts(number: int, current: str, observed: npt.NDArray[np.object_]) -> Iterator[Option]:
    for text in sorted(set(observed.tolist()) - {current, ""}):
        yield Option(number, 1.0, text)


def _rank(known: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the share of sorted values below each, those that are equal counted half."""
    below, up_to = (np.searchsorted(known, values, side=side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(known)))


def _thinned(options: list[Option]) -> list[Option]:
    places = np.linspace(0, len(options) - 1, min(len(options), _MOST_OPTIONS)).round().astype(int)
    return [options[place] for place in places]
