"""A scored row with some columns changed, and what transforms make of them computed anew."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from chassis.errors import FieldViolation
from lineal.explain import same
from services.serving.request import Request, RowsInvalid
from services.serving.scored import Scored
from services.serving.search import Changes
from tabular.on_demand import OnDemand, on_demand
from tabular.transforms import needed
from tabular.vectors import ColumnMistyped, Vectors, assemble

Columns = dict[str, npt.NDArray[Any]]


class Altering:
    """Rows like the one that was scored but for a few columns.

    `computed` are columns that transforms make, anew with each change; where the request brought them, and not all that
    they are made of or not so, none are. `fixed` are the columns that cannot be changed by themselves: those that
    transforms make, what these are made of where they cannot be computed or are `constrained`, and the keys of
    entities, since another entity has other features. `fed` are the others that transforms take.
    """

    def __init__(self, scored: Scored, request: Request, constrained: Collection[str]) -> None:
        bundle = scored.scorer.bundle
        self._columns = bundle.columns
        self._row = _by_name(scored)
        self._computing = on_demand(bundle, ())
        self._rest = self._others(scored, request)
        made = {column.name for column in bundle.columns if column.source == "transform"}
        taken = {column.name for column in self._computing.inputs}
        if made and not self._same(made):
            self.computed, self._computing, held = set[str](), OnDemand((), ()), taken
        else:
            self.computed, held = made, set(needed(bundle.transforms, made.intersection(constrained))[1])
        self.fixed = made | held | set(bundle.entity_columns)
        self.fed = taken - self.fixed

    def vectors(self, changes: Sequence[Changes]) -> Vectors:
        """Return the row with each of the changes."""
        return assemble(self._columns, self._values(changes), len(changes))

    def request(self, request: Request, changes: Sequence[Changes], bundle_digest: str) -> Request:
        """Return a request that asks a bundle for the row with each of the changes."""
        values, rows = self._values(changes), len(changes)
        changed = {self._columns[option.column].name for each in changes for option in each}
        kept = {name: given for name, given in request.columns.items() if name not in self.computed}
        return replace(
            request,
            columns={name: np.repeat(given, rows) for name, given in kept.items()} | {n: values[n] for n in changed},
            rows=rows,
            event_time_micros=list(request.event_time_micros) * rows,
            bundle_digest=bundle_digest,
            sent={},
        )

    def _values(self, changes: Sequence[Changes]) -> Columns:
        values = {name: np.repeat(value, len(changes)) for name, value in self._row.items()}
        for number, each in enumerate(changes):
            for option in each:
                values[self._columns[option.column].name][number] = option.value
        return values | self._made(values, len(changes))

    def _made(self, values: Columns, rows: int) -> Columns:
        if not self._computing.transforms:
            return {}
        rest = {name: np.repeat(value, rows) for name, value in self._rest.items()}
        return self._computing.compute(
            {column.name: {**rest, **values}[column.name] for column in self._computing.inputs}
        )

    def _others(self, scored: Scored, request: Request) -> Columns:
        """Return what transforms take that is no column of the bundle, as far as it is known."""
        found = dict(scored.taken)
        for column in self._computing.inputs:
            if column.name not in found and column.name in request.columns and column.name not in self._row:
                try:
                    found |= OnDemand((), [column]).take(request.columns)
                except ColumnMistyped as error:
                    what = FieldViolation(f"columns[{column.name}]", str(error))
                    raise RowsInvalid(str(error), [what]) from error
        return found

    def _same(self, names: Collection[str]) -> bool:
        """Tell whether the transforms make of the row what it has in these columns."""
        known = {**self._rest, **self._row}
        if any(column.name not in known for column in self._computing.inputs):
            return False
        made = self._made(self._row, 1)
        return all(same(made[name][0], self._row[name][0]) for name in names)


def _by_name(scored: Scored) -> Columns:
    """Return the values of a scored row by column, as transforms take them: None is null in texts."""
    columns = scored.scorer.bundle.columns
    numbers, texts = iter(scored.vectors.numeric[0].tolist()), iter(scored.vectors.categorical[0].tolist())
    return {
        column.name: np.array([next(texts) or None], dtype=object)
        if column.type == "categorical"
        else np.array([next(numbers)], dtype=np.float64)
        for column in columns
    }
