"""Corrections through the running services: a later row of the same row key takes the place of the one before."""

import json
from datetime import timedelta
from typing import Any

import pytest

from lineal.api.features.v1 import features_service_pb2 as api
from lineal.api.features.v1.parity_pb2 import FeatureValue, ServedFeatures
from tests.integration.features.test_features import compare, explained
from tests.integration.features.world import World, at, corrections, ends, random_trips, trips, values
from tests.unit.features.wide import wide_view
from tests.unit.tabular.declarations import feature_set, view

Row = dict[str, Any]
DRIVERS = ["ann", "bob", "cem"]


def holding(rows: list[Row], driver: str, cutoff: Any) -> list[Row]:
    """Say which rows count, in the plainest way: of each trip the version known last, if it is the driver's."""
    newest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: max(row["told"], row["landed"])):
        if max(row["told"], row["landed"]) <= cutoff:
            newest[row["trip"]] = row
    return [row for row in newest.values() if row["driver"] == driver]


@pytest.mark.timeout(120)
async def test_online_equals_the_training_set_with_corrections(any_world: World) -> None:
    started, ended = random_trips(seed=9, count=120)
    await any_world.declare(trips(), ends())
    await any_world.send(trips(), started)
    await any_world.send(ends(), ended, batch_rows=30)
    changed = corrections(4, ended, 60)
    # One half before the view is declared, one after; single rows, since a key is unique within a batch.
    await any_world.send(ends(), changed[:30], batch_rows=1, prefix="changed")
    await any_world.declare(wide_view(), feature_set())
    position = await any_world.send(ends(), [{**row, "weather": "fog"} for row in changed[30:]], batch_rows=1)
    built = (await any_world.build("late", await any_world.snapshots("trips", "ends")))[-1].training_set
    frame = await any_world.read(built.digest)
    drivers = [driver if isinstance(driver, str) else None for driver in frame["driver"]]
    cutoffs = [cutoff.to_pydatetime() for cutoff in frame["cutoff"]]
    together = await any_world.online("late", {"driver": drivers}, cutoffs, position)
    for column in together.columns:
        compare(values(column), frame[column.name])


@pytest.mark.timeout(120)
async def test_a_correction_counts_from_when_it_was_known(any_world: World) -> None:
    await any_world.declare(trips(), ends(), view(), feature_set())
    end = {"trip": "a", "driver": "ann", "delay": 5.0, "weather": "sun", "landed": at(10), "told": at(20)}
    first = await any_world.send(ends(), [end])

    async def counts(position: int) -> list[list[Any]]:
        cutoffs = [at(19), at(25), at(30)]
        found = [await any_world.online("late", {"driver": [who] * 3}, cutoffs, position) for who in ("ann", "bob")]
        return [values(one.columns[n]) for one in found for n in (0, 1)]

    assert await counts(first) == [[0.0, 1.0, 1.0], [None, 5.0, 5.0], [0.0, 0.0, 0.0], [None, None, None]]
    repeated = await any_world.send(ends(), [end, {**end, "trip": "b", "driver": "cem"}], prefix="again")
    assert await counts(repeated) == await counts(first)
    repeated = await any_world.send(ends(), [{**end, "told": at(24)}])
    assert await counts(repeated) == await counts(first)
    moved = await any_world.send(ends(), [{**end, "driver": "bob", "delay": 7.0, "told": at(30)}])
    assert await counts(moved) == [[0.0, 1.0, 0.0], [None, 5.0, None], [0.0, 0.0, 1.0], [None, None, 7.0]]
    # Told before the one that moved it, though it came after: it holds until then.
    late = await any_world.send(ends(), [{**end, "delay": 6.0, "told": at(25)}])
    assert await counts(late) == [[0.0, 1.0, 0.0], [None, 6.0, None], [0.0, 0.0, 1.0], [None, None, 7.0]]
    (before,) = await explained(any_world, "ann", at(30), first)
    (after,) = await explained(any_world, "ann", at(30), late)
    assert ([len(before.rows), len(after.rows)], values(after.columns[0])) == ([1, 0], [0.0])


@pytest.mark.timeout(120)
async def test_explanations_and_parity_count_the_same_versions(world: World) -> None:
    await world.declare(trips(), ends(), view(), feature_set())
    _, ended = random_trips(5, 80)
    sent = [*ended, *corrections(6, ended, 40)]
    await world.send(ends(), sent[:80], batch_rows=40)
    middle = await world.send(ends(), sent[80:100], batch_rows=1, prefix="changed")
    await world.online("late", {"driver": ["ann"]}, [at(0)], middle)
    served = []
    for driver in DRIVERS:
        for cutoff in (at(200), at(400), at(700)):
            answer = await world.online("late", {"driver": [driver]}, [cutoff], middle)
            (found,) = await explained(world, driver, cutoff, middle)
            assert [values(c) for c in found.columns] == [values(c) for c in answer.columns]
            held = holding(sent[:100], driver, cutoff)
            window = {row["trip"] for row in held if row["landed"] > cutoff - timedelta(seconds=100)}
            newest = {max(held, key=lambda r: (r["landed"], r["told"]))["trip"]} if held else set()
            assert {json.loads(row.row_json)["trip"] for row in found.rows} == window | newest
            one = ServedFeatures(prediction_id=f"{driver} {cutoff}", position=answer.position)
            one.entities["driver"], one.cutoff_micros = driver, round(cutoff.timestamp() * 1e6)
            for column in answer.columns:
                (value,) = values(column)
                kind = {} if value is None else {"text" if isinstance(value, str) else "number": value}
                one.values.append(FeatureValue(column=column.name, **kind))
            served.append(one)
    await world.send(ends(), sent[100:], batch_rows=1, prefix="changed")
    checked = await world.features.CheckParity(api.CheckParityRequest(feature_set="late", served=served))
    assert (checked.values, list(checked.differences)) == (3 * len(served), [])


@pytest.mark.timeout(120)
async def test_a_corrected_label_is_the_newest_that_was_known(world: World) -> None:
    reports = ends()
    # Reports are numbered: a correction may name another trip.
    reports.fields.add(name="report").CopyFrom(reports.fields[0])
    reports.fields[-1].name = "report"
    reports.row_key[:] = ["report"]
    await world.declare(trips(), reports, view(), feature_set())
    trip = {"driver": "ann", "km": 1.0, "start": at(100), "told": at(50)}
    await world.send(trips(), [{**trip, "trip": "a"}, {**trip, "trip": "b"}])
    end = {"trip": "a", "driver": "ann", "weather": "sun", "delay": 20.0, "landed": at(150), "told": at(160)}
    await world.send(reports, [{**end, "report": "r"}])
    await world.send(reports, [{**end, "report": "r", "trip": "b", "delay": 2.0, "told": at(200)}])
    snapshots = await world.snapshots("trips", "ends")
    for known, expected in ((180, {"a": 1.0}), (200, {"b": 0.0})):
        built = await world.build("late", snapshots, label_known_time=at(known))
        frame = await world.read(built[-1].training_set.digest)
        assert dict(zip(frame["trip"], frame["label"], strict=True)) == expected
