"""What serving brings into the form that transforms take, and what it need not compute."""

from typing import Any

import numpy as np
import pytest

from lineal import features
from tabular.bundle import Bundle, ModelColumn
from tabular.on_demand import on_demand
from tabular.vectors import ColumnMissing, ColumnMistyped

NOON = 1_714_564_800_000_000
BUNDLE = Bundle(
    model="m",
    problem="binary",
    columns=(
        ModelColumn("hour", "numeric", "transform"),
        ModelColumn("pair", "categorical", "transform"),
        ModelColumn("share", "numeric", "transform"),
    ),
    files={},
    transforms=(
        features.calendar("hour", "placed", "hour"),
        features.cross("pair", "shop", "customer_shop"),
        features.ratio("share", "amount", "customer_mean"),
        features.clip("share_clipped", "share", maximum=1.0),
    ),
    inputs=(
        ModelColumn("placed", "time"),
        ModelColumn("shop", "categorical"),
        ModelColumn("customer_shop", "categorical", "view"),
        ModelColumn("amount", "numeric"),
        ModelColumn("customer_mean", "numeric", "view"),
    ),
)


def hours(placed: Any) -> list[float]:
    computing = on_demand(BUNDLE, {"pair", "share"})
    return list(computing.compute(computing.take({"placed": placed}))["hour"])


@pytest.mark.parametrize(
    "placed",
    [
        np.array([NOON, np.iinfo(np.int64).min]),
        np.array([NOON, np.nan]),
        np.array(["2024-05-01T14:00:00+02:00", None], dtype=object),
        np.array(["2024-05-01T12:00:00.000000Z", ""], dtype=object),
    ],
)
def test_times_come_as_microseconds_or_texts(placed: Any) -> None:
    assert np.array_equal(hours(placed), [12.0, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("placed", "text"),
    [
        (np.array([0.5]), "fractions"),
        (np.array(["noon"], dtype=object), "with a zone"),
        (np.array(["2024-05-01T12:00:00"], dtype=object), "with a zone"),
        (np.array(["9999-12-31"], dtype=object), "with a zone"),
    ],
)
def test_what_is_no_time_is_refused(placed: Any, text: str) -> None:
    with pytest.raises(ColumnMistyped, match=text):
        hours(placed)


def test_nulls_pass_as_in_views_and_only_what_is_needed_is_computed() -> None:
    computing = on_demand(BUNDLE, {"hour"})
    assert [column.name for column in computing.inputs] == ["amount", "customer_mean", "shop", "customer_shop"]
    values = {
        "amount": np.array([3, 4]),
        "customer_mean": np.array([0.0, 8.0]),
        "shop": np.array(["a|b", None], dtype=object),
        "customer_shop": np.array([1.0, np.nan]),
    }
    made = computing.compute(computing.take(values))
    assert sorted(made) == ["pair", "share"]
    assert made["pair"].tolist() == ["a\\|b|1", None]
    assert np.array_equal(made["share"], [np.nan, 0.5], equal_nan=True)
    with pytest.raises(ColumnMissing, match="customer_mean"):
        computing.take({"amount": values["amount"]})


def test_a_bundle_without_transforms_computes_nothing() -> None:
    bundle = Bundle(model="m", problem="binary", columns=(ModelColumn("amount", "numeric"),), files={})
    assert on_demand(bundle, {}).compute({}) == {}
    assert {"transforms", "inputs"}.isdisjoint(bundle.to_json())
