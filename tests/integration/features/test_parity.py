"""What was served is computed anew from accepted rows, as known at each recorded position; what differs is found."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest

from lineal.api.features.v1 import features_service_pb2 as api
from lineal.api.features.v1.parity_pb2 import FeatureValue, ParityDifference, ServedFeatures
from services.features import parity
from tests.integration.features.world import World, at, ends, random_trips, trips, values
from tests.unit.features.wide import wide_view
from tests.unit.tabular.declarations import feature_set

DRIVERS = ["ann", "bob", "cem", "dan", ""]


def recorded(
    response: api.GetOnlineFeaturesResponse, drivers: list[str], cutoffs: list[datetime], name: str
) -> Iterator[ServedFeatures]:
    """Make what records of predictions have of an answer."""
    found = {column.name: values(column) for column in response.columns}
    for row, (driver, cutoff) in enumerate(zip(drivers, cutoffs, strict=True)):
        served = ServedFeatures(
            prediction_id=f"{name}/{row}",
            entities={"driver": driver},
            cutoff_micros=round(cutoff.timestamp() * 1e6),
            position=response.position,
        )
        for column, of_rows in found.items():
            value = of_rows[row]
            kind = {} if value is None else {"text": value} if isinstance(value, str) else {"number": float(value)}
            served.values.append(FeatureValue(column=column, **kind))
        yield served


async def ask(world: World, rng: random.Random, name: str, position: int) -> list[ServedFeatures]:
    drivers = [rng.choice(DRIVERS) for _ in range(12)]
    cutoffs = [at(rng.uniform(0, 900)) for _ in drivers]
    entities = {"driver": [driver or None for driver in drivers]}
    return list(recorded(await world.online("late", entities, cutoffs, position), drivers, cutoffs, name))


async def traffic(world: World, count: int = 160) -> list[ServedFeatures]:
    """Send rows late and out of order, and ask in between; return what was served."""
    await world.declare(trips(), ends(), wide_view(), feature_set())
    started, ended = random_trips(seed=11, count=count)
    await world.send(trips(), started)
    rng, served = random.Random(3), []
    for n, start in enumerate(range(0, count, 20)):
        position = await world.send(ends(), ended[start : start + 20], batch_rows=10)
        served += await ask(world, rng, str(n), position)
    return served


async def checked(world: World, served: list[ServedFeatures], version: str = "") -> api.CheckParityResponse:
    request = api.CheckParityRequest(feature_set="late", feature_set_version=version, served=served)
    response: api.CheckParityResponse = await world.features.CheckParity(request)
    return response


async def test_what_was_served_of_late_and_disordered_rows_is_what_they_give(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await traffic(any_world)
    response = await checked(any_world, served)
    assert response.values == sum(len(one.values) for one in served) > 96 * 20
    assert list(response.differences) == []
    # Entities that do not fit in at once are taken in parts.
    monkeypatch.setattr(parity, "_MOST_ROWS", 20)
    assert await checked(any_world, served) == response
    # Rows accepted later, although available by then, were not known: at another position the values are others.
    for one in served:
        one.position = max(each.position for each in served)
    assert (await checked(any_world, served)).differences


async def test_state_that_was_tampered_with_is_found(world: World, tmp_path: Path) -> None:
    served = await traffic(world, count=80)
    (file,) = (tmp_path / "features" / "projections").glob("online-v*.db")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("DELETE FROM online_chunks WHERE entity = ?", ['["ann"]']).rowcount
        database.commit()
    # What is cached is read again once an event was applied.
    row = {"trip": "new", "driver": "bob", "delay": 1.0, "weather": "sun", "landed": at(490), "told": at(495)}
    position = await world.send(ends(), [row])
    cutoffs, drivers = [at(500), at(500)], ["ann", "bob"]
    response = await world.online("late", {"driver": drivers}, cutoffs, position)
    wrong = list(recorded(response, drivers, cutoffs, "after"))
    differences = (await checked(world, [*served, *wrong])).differences
    assert {(one.prediction_id, one.position) for one in differences} == {("after/0", response.position)}
    found = {one.served.column: (one.served.number, one.computed.number) for one in differences}
    assert found["driver_delays_n"][0] == 0 < found["driver_delays_n"][1]


async def test_a_recorded_value_that_was_changed_is_found(world: World) -> None:
    served = await traffic(world, count=40)
    for one in served:
        one.values.append(FeatureValue(column="km", number=1.0))
    honest = await checked(world, served)
    assert (honest.values, list(honest.differences)) == (sum(len(one.values) - 1 for one in served), [])
    of_columns = [{value.column: value for value in one.values} for one in served]
    one, of_column = next(
        pair for pair in zip(served, of_columns, strict=True) if pair[1]["driver_delays_filled_mean"].number
    )
    counted, mean = (of_column[f"driver_delays_{name}"] for name in ("n", "filled_mean"))
    before = counted.number
    # Of a count any change is one, of a mean what is more than rounding.
    counted.number = before + 1e-10
    mean.number *= 1 + 1e-11
    (found,) = (await checked(world, served)).differences
    assert found == ParityDifference(
        prediction_id=one.prediction_id,
        position=one.position,
        served=counted,
        computed=FeatureValue(column="driver_delays_n", number=before),
    )
    counted.ClearField("number")
    mean.number *= 1 + 1e-6
    found_columns = [one.served.column for one in (await checked(world, served)).differences]
    assert sorted(found_columns) == ["driver_delays_filled_mean", "driver_delays_n"]


async def test_what_cannot_be_checked_is_named(world: World) -> None:
    await world.declare(trips(), ends(), wide_view(), feature_set())
    assert (await checked(world, [])).values == 0
    with pytest.raises(grpc.aio.AioRpcError, match="1,001 predictions are too many"):
        await checked(world, [ServedFeatures()] * (parity.MOST_SERVED + 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await checked(world, [], version="another")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
