"""Online equals offline on the flights of 2013, told late and out of order, some of them corrected.

A fifth of the landings is told up to three days late, and one in twenty corrected: other delays, some other aircraft.

`LINEAL_TEST_FLIGHTS=336776` compares all of them, which takes minutes; without it the first days are compared.
"""

import os

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.flight_snapshots import WINDOWS, datasets, feature_set, views
from examples.flights import source
from lineal.api.features.v1.events_pb2 import FeatureViewRegistered
from services.features import assembly, state
from services.features.packing import unpack
from tabular import keys
from tabular.columns import TIMESTAMP
from tabular.operators import Timeline, operator
from tabular.parquet import conform
from tabular.schema import arrow_schema
from tests.unit.features.memory_state import MemoryState

FLIGHTS = int(os.environ.get("LINEAL_TEST_FLIGHTS", "4000"))
DAY = 86_400_000_000
STEP = DAY // 8


class Online:
    """The state of one view as a store keeps it, answered with the operators that the service uses."""

    def __init__(self, name: str) -> None:
        self.dataset = datasets()["arrivals"]
        declared = views()[name]
        self.view = state.view_of(FeatureViewRegistered(feature_view=declared, version="v"), self.dataset)
        self.operators = [operator(feature) for feature in declared.features]
        self.state = MemoryState()

    def add(self, table: pa.Table) -> None:
        row_keys = state.row_keys_of(self.dataset, table)
        self.state.take(*state.changes(self.view, self.dataset, table, row_keys, self.state))

    def answer(self, entities: pa.Array, cutoff: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float64]]:
        texts = [text or "" for text in keys.encode([entities])]
        known = [text for text in dict.fromkeys(texts) if text in self.state.chunks]
        place = {text: n for n, text in enumerate(known)}
        packed = [self.state.packed(text) for text in known]
        code = np.array([place.get(text, -1) for text in texts], dtype=np.int64)
        found = Timeline(unpack(self.view.layout, packed)).at(code, cutoff).compute(self.operators)
        return [np.asarray(feature.values, dtype=np.float64) for feature in found]


def delivered(arrivals: pa.Table, seed: int) -> pa.Table:
    """Make a fifth of the landings known up to three days late, correct some a little later still, and shuffle all."""
    rng = np.random.default_rng(seed)
    again = arrivals.take(np.flatnonzero(rng.random(len(arrivals)) < 0.05))
    delay, tail = (again.schema.get_field_index(name) for name in ("delay", "tailnum"))
    again = again.set_column(delay, again.schema.field(delay), pc.add(again["delay"], 7.0))
    swapped = again["tailnum"].take(rng.permutation(len(again)))
    aircraft = pc.if_else(pa.array(rng.random(len(again)) < 0.3), swapped, again["tailnum"])
    again = again.set_column(tail, again.schema.field(tail), aircraft)
    arrivals = pa.concat_tables([arrivals, again]).combine_chunks()
    late = rng.integers(0, 3 * DAY, len(arrivals)) * (rng.random(len(arrivals)) < 0.2)
    place = arrivals.schema.get_field_index("available_time")
    known = pc.add(arrivals["event_time"], pa.array(late, pa.duration("us")))
    return arrivals.set_column(place, arrivals.schema.field(place), known).take(rng.permutation(len(arrivals)))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "key"), [("carrier", "carrier"), ("tail", "tailnum")])
def test_online_equals_offline_on_flights_told_late_and_out_of_order(name: str, key: str) -> None:
    tables = source.load()
    flights = tables.flights.sort_values(["event_time", "flight_id"]).head(FLIGHTS)
    cutoff = pa.array(flights["event_time"]).cast(TIMESTAMP)
    asked = pa.table({key: pa.array(flights[key], pa.string()), assembly.CUTOFF: cutoff})
    landed = tables.arrivals.rename(columns={"arrival_delay": "delay"})
    arrivals = conform(pa.Table.from_pandas(landed, preserve_index=False), arrow_schema(datasets()["arrivals"]))
    arrivals = delivered(arrivals.filter(pc.less(arrivals["event_time"], cutoff[-1])), seed=11)
    place = list(views()).index(name)
    known = assembly.with_superseded(arrivals, datasets()["arrivals"])
    offline = assembly.ViewRows(feature_set(), place, views()[name], datasets()["arrivals"], known).features(asked)

    when, told = (np.asarray(column.cast(pa.int64()).to_numpy()) for column in (cutoff, arrivals["available_time"]))
    online, found = Online(name), []
    first = min(int(when[0]), int(told.min())) // STEP
    order = np.argsort(told // STEP, kind="stable")
    steps = range(first, int(when[-1]) // STEP + 1)
    ends = np.searchsorted(told[order] // STEP, np.array(steps), side="right")
    asks = np.searchsorted(when // STEP, np.array(steps), side="right")
    for start, end, ask, until in zip([0, *ends], ends, [0, *asks], asks, strict=False):
        if end > start:
            online.add(arrivals.take(order[start:end]))
        if until > ask:
            found.append(online.answer(asked[key].slice(ask, until - ask).combine_chunks(), when[ask:until]))
    assert offline.num_rows == FLIGHTS
    for n, column in enumerate(offline.column_names):
        there = np.concatenate([part[n] for part in found])
        here = np.asarray(offline[column].to_pandas(), dtype=np.float64)
        if "_n_" in column:
            # An entity without rows that is not known online yet is null in both.
            assert np.array_equal(np.nan_to_num(here), np.nan_to_num(there))
        else:
            np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert len(offline.column_names) == 2 * len(WINDOWS)
