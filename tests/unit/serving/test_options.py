import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineal.api.registry.v1.explanation_pb2 import ExplanationPolicy
from services.serving.options import options_of
from services.serving.search import Option
from tabular.bundle import ModelColumn
from tabular.vectors import Vectors

COLUMNS = (ModelColumn("region", "categorical"), ModelColumn("age", "numeric"), ModelColumn("debt", "numeric"))
NUMBERS = st.floats(-100, 100, width=32) | st.integers(-3, 3).map(float) | st.just(float("nan"))


def vectors(ages: list[float], debts: list[float], regions: list[str]) -> Vectors:
    texts = np.array(regions, dtype=object).reshape(-1, 1)
    return Vectors(np.array([ages, debts], dtype=float).T.reshape(len(ages), 2), texts)


POPULATION = vectors([20, 30, 40, 50, float("nan")], [1, 2, 3, 4, 5], ["north", "south", "", "north", "west"])
ROW = vectors([30], [float("nan")], ["north"])


def found(policy: ExplanationPolicy, row: Vectors = ROW, fixed: tuple[str, ...] = ()) -> list[list[Option]]:
    return options_of(COLUMNS, row, POPULATION, {}, policy, fixed)


def values(options: list[Option]) -> list[float | str]:
    return [option.value for option in options]


def test_others_values_are_options_nearest_first_and_null_is_none() -> None:
    regions, ages, debts = found(ExplanationPolicy())
    assert values(regions) == ["south", "west"]
    # Of four who told their age one is passed on either side, two by 50.
    assert ages == [Option(1, 0.25, 20.0), Option(1, 0.25, 40.0), Option(1, 0.5, 50.0)]
    # Of a null nobody can say how far a value is from it.
    assert sorted(values(debts)) == [1, 2, 3, 4, 5]
    assert {option.distance for option in debts} == {1.0}


@pytest.mark.parametrize(
    ("policy", "regions", "ages", "debts"),
    [
        (ExplanationPolicy(immutable_columns=["region", "age"]), [], [], 5),
        (ExplanationPolicy(growing_columns=["age", "debt", "region"]), [], [40.0, 50.0], 0),
        (ExplanationPolicy(falling_columns=["age", "debt"]), ["south", "west"], [20.0], 0),
    ],
)
def test_a_policy_takes_options_away(
    policy: ExplanationPolicy, regions: list[str], ages: list[float], debts: int
) -> None:
    first, second, third = found(policy)
    assert (values(first), values(second), len(third)) == (regions, ages, debts)


def test_fixed_columns_have_no_options() -> None:
    assert found(ExplanationPolicy(), fixed=("region", "age", "debt")) == [[], [], []]


@given(NUMBERS, st.lists(NUMBERS, min_size=1), st.lists(st.floats(-100, 100, width=32)), st.sampled_from("gfb"))
def test_one_value_is_taken_between_two_borders(
    current: float, observed: list[float], at: list[float], direction: str
) -> None:
    borders = np.unique(np.array(at, dtype=np.float32))
    policy = ExplanationPolicy(
        growing_columns=["age"] * (direction == "g"), falling_columns=["age"] * (direction == "f")
    )
    population = vectors(observed, observed, ["x"] * len(observed))
    row = vectors([current], [current], ["x"])
    _, ages, _ = options_of(COLUMNS, row, population, {"age": borders, "debt": borders}, policy, ())

    def side(value: float) -> int:
        # As a split asks: above the border, in float32.
        return int((np.float32(value) > borders).sum())

    reached = [side(float(option.value)) for option in ages]
    assert len(set(reached)) == len(reached)
    assert [option.distance for option in ages] == sorted(option.distance for option in ages)
    allowed = [value for value in observed if not np.isnan(value)]
    if not np.isnan(current):
        assert side(current) not in reached
        allowed = [
            value
            for value in allowed
            if side(value) != side(current) and {"g": value > current, "f": value < current}.get(direction, True)
        ]
    elif direction != "b":
        allowed = []
    # All that can be reached has an option, and that is a value of others.
    assert set(reached) == {side(value) for value in allowed}
    assert {option.value for option in ages} <= set(allowed)


def test_many_values_are_thinned_evenly() -> None:
    observed = [float(number) for number in range(5_000)]
    population = vectors(observed, observed, ["x"] * len(observed))
    _, ages, _ = options_of(COLUMNS, vectors([0], [0], ["x"]), population, {}, ExplanationPolicy(), ())
    assert len(ages) == 256
    assert (ages[0].value, ages[-1].value) == (1.0, 4999.0)
