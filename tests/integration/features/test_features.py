import json
import math
from datetime import datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pandas as pd
import pytest

from chassis.ids import new_request_id
from lineal.api.features.v1 import features_service_pb2 as api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.rows import decode
from tests.integration.features.world import World, at, ends, random_trips, trips, values
from tests.unit.features.wide import wide_view
from tests.unit.tabular.declarations import feature_set, view


@pytest.mark.timeout(120)
async def test_online_equals_the_training_set_at_every_cutoff(any_world: World) -> None:
    started, ended = random_trips(seed=3, count=300)
    await any_world.declare(trips(), ends())
    await any_world.send(trips(), started)
    # One half before the view is declared, one after.
    await any_world.send(ends(), ended[:150], batch_rows=7)
    await any_world.declare(wide_view(), feature_set())
    position = await any_world.send(ends(), ended[150:], batch_rows=7)

    responses = await any_world.build("late", await any_world.snapshots("trips", "ends"))
    built = responses[-1].training_set
    assert [r.steps_done for r in responses if r.steps] == sorted(r.steps_done for r in responses if r.steps)
    frame = await any_world.read(built.digest)
    assert len(frame) == built.rows == sum(row["delay"] is not None for row in ended)
    assert frame["cutoff"].is_monotonic_increasing
    assert math.isclose(frame["label"].mean(), built.label_mean)

    drivers = [driver if isinstance(driver, str) else None for driver in frame["driver"]]
    cutoffs = [cutoff.to_pydatetime() for cutoff in frame["cutoff"]]
    together = await any_world.online("late", {"driver": drivers}, cutoffs, position)
    for column in together.columns:
        compare(values(column), frame[column.name])
    # One row alone takes another way through the cache and must not differ by a bit.
    for row in range(0, len(frame), 29):
        alone = await any_world.online("late", {"driver": drivers[row : row + 1]}, cutoffs[row : row + 1])
        assert [values(c) for c in alone.columns] == [values(c)[row : row + 1] for c in together.columns]
        assert [s[0] for s in alone.statuses] == [s[row] for s in together.statuses]

    again = await any_world.build("late", await any_world.snapshots("trips", "ends"))
    assert (len(again), again[-1].training_set.digest) == (1, built.digest)
    for runner in any_world.suite.servers["features"].harness._runners:
        verified = await runner.verify()
        assert verified.live_digest == verified.rebuilt_digest


async def explained(
    world: World, driver: str, cutoff: datetime, position: int = 0
) -> list[api.ExplainFeaturesResponse]:
    request = api.ExplainFeaturesRequest(feature_set="late", entities={"driver": driver}, position=position)
    request.cutoff_micros = round(cutoff.timestamp() * 1e6)
    return [response async for response in world.features.ExplainFeatures(request)]


@pytest.mark.timeout(120)
async def test_rows_are_named_that_make_online_features(any_world: World) -> None:
    await any_world.declare(trips(), ends(), view(), feature_set())
    _, ended = random_trips(3, 200)
    middle = await any_world.send(ends(), ended[:120])
    position = await any_world.send(ends(), ended[120:])
    for driver in ("ann", "bob", "nobody"):
        for cutoff in (at(100), at(333), at(600), at(3000)):
            answer = await any_world.online("late", {"driver": [driver]}, [cutoff], position)
            (found,) = await explained(any_world, driver, cutoff, answer.position)
            assert [values(c) for c in found.columns] == [values(c) for c in answer.columns]
            assert list(found.statuses) == [status[0] for status in answer.statuses]
            known = [r for r in ended if r["driver"] == driver and max(r["told"], r["landed"]) <= cutoff]
            window = {r["trip"] for r in known if r["landed"] > cutoff - timedelta(seconds=100)}
            latest = {max(known, key=lambda r: (r["landed"], r["told"]))["trip"]} if known else set()
            rows = [json.loads(row.row_json) for row in found.rows]
            assert {row["trip"] for row in rows} == window | latest
    (earlier,) = await explained(any_world, "ann", at(600), middle)
    assert earlier.position == middle
    assert all(row.batch_position <= middle for row in earlier.rows)
    row = (await explained(any_world, "ann", at(600)))[0].rows[0]
    proven = await any_world.ingest.ProveRows(
        ingest_api.ProveRowsRequest(dataset="ends", batch_id=row.batch_id, rows=[row.row])
    )
    assert decode(ends(), proven.rows[0].data)["trip"] == json.loads(row.row_json)["trip"]


@pytest.mark.timeout(120)
async def test_more_rows_than_are_listed_are_refused(world: World) -> None:
    wide = view()
    wide.features[0].aggregate.window.seconds = 10**6
    await world.declare(trips(), ends(), wide, feature_set())
    end = {"driver": "ann", "delay": 1.0, "weather": "sun", "landed": at(0), "told": at(0)}
    many = [{"trip": f"t{n}", **end} for n in range(10_001)]
    position = await world.send(ends(), many[:10_000], batch_rows=5_000)
    assert sum(len(page.rows) for page in await explained(world, "ann", at(1), position)) == 10_000
    await world.send(ends(), many[10_000:])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await explained(world, "ann", at(1))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "at most 10,000" in str(caught.value.details())


def compare(online: list[object], offline: "pd.Series[Any]") -> None:
    for one, other in zip(online, offline.astype(object).tolist(), strict=True):
        missing = other is None or other != other
        if one is None or missing:
            assert (one is None) == missing
        elif isinstance(one, str):
            assert one == other
        else:
            assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)  # type: ignore[arg-type]


@pytest.mark.timeout(120)
async def test_a_training_set_holds_only_what_was_known(world: World) -> None:
    await world.declare(trips(), ends(), view(), feature_set())
    trip = {"trip": "a", "driver": "ann", "km": 1.0, "start": at(100), "told": at(50)}
    await world.send(trips(), [{**trip, "km": 9.0}, {**trip, "trip": "b"}, {**trip, "trip": "c", "start": at(500)}])
    await world.send(trips(), [{**trip, "told": at(60)}])
    end = {"driver": "ann", "weather": "sun", "landed": at(85), "told": at(90)}
    await world.send(
        ends(),
        [
            {**end, "trip": "x", "delay": 5.0},
            {**end, "trip": "y", "delay": 50.0, "told": at(91)},
            {**end, "trip": "a", "delay": 20.0, "landed": at(150), "told": at(160)},
            {**end, "trip": "b", "delay": 20.0, "landed": at(150), "told": at(300)},
            {**end, "trip": "c", "delay": 20.0, "landed": at(550), "told": at(560)},
        ],
    )
    await world.send(ends(), [{**end, "trip": "a", "delay": 1.0, "landed": at(150), "told": at(190)}])
    snapshots = await world.snapshots("trips", "ends")
    built = await world.build("late", snapshots, start_time=at(0), end_time=at(400), label_known_time=at(200))
    frame = await world.read(built[-1].training_set.digest)
    # b's label came too late, c lies behind the end; a's correction of the row and of the label count.
    assert frame["trip"].tolist() == ["a"]
    assert frame["km"].tolist() == [1.0]
    assert frame["label"].tolist() == [0.0]
    # The cut-off is ten seconds before the start: x is known then, y is not.
    assert frame["driver_delays_mean"].tolist() == [5.0]
    assert list(frame.columns) == [
        "trip",
        "driver",
        "cutoff",
        "km",
        "driver_delays_n",
        "driver_delays_mean",
        "driver_delays_weather",
        "label",
        "label_time",
    ]
    later = await world.build("late", snapshots, start_time=at(0), end_time=at(400), label_known_time=at(301))
    assert later[-1].training_set.rows == 2
    known = later[-1].training_set.position
    listed = await world.features.ListTrainingSets(api.ListTrainingSetsRequest(feature_set="late", min_position=known))
    assert [t.rows for t in listed.training_sets] == [2, 1]
    found = await world.features.GetTrainingSet(api.GetTrainingSetRequest(digest=later[-1].training_set.digest))
    assert found.training_set == later[-1].training_set


@pytest.mark.timeout(120)
async def test_a_static_spine_takes_the_latest_rows(any_world: World) -> None:
    spine, label, looked_up, declared = trips(), ends(), view(), feature_set()
    spine.event_time = spine.available_time = label.event_time = label.available_time = ""
    del looked_up.features[:2]
    looked_up.features[0].latest.ClearField("max_age")
    await any_world.declare(spine, label, looked_up, declared)
    trip = {"trip": "a", "driver": "ann", "km": 1.0, "start": at(0), "told": at(0)}
    end = {"trip": "a", "driver": "ann", "delay": 1.0, "weather": "sun", "landed": at(0), "told": at(0)}
    await any_world.send(spine, [trip, {**trip, "trip": "b", "driver": None}])
    await any_world.send(label, [end])
    position = await any_world.send(label, [{**end, "weather": "rain", "delay": 30.0}])
    built = await any_world.build("late", await any_world.snapshots("trips", "ends"))
    frame = await any_world.read(built[-1].training_set.digest)
    assert frame[["trip", "driver_delays_weather", "label"]].values.tolist() == [["a", "rain", 1.0]]
    online = await any_world.online("late", {"driver": ["ann"]}, [at(0)], position)
    assert values(online.columns[0]) == ["rain"]


async def test_statuses_say_why_a_value_is_missing(any_world: World) -> None:
    await any_world.declare(trips(), ends(), view(), feature_set())
    row = {"trip": "x", "driver": "ann", "delay": None, "weather": "sun", "landed": at(0), "told": at(0)}
    position = await any_world.send(ends(), [row])
    answer = await any_world.online(
        "late", {"driver": ["ann", "ann", "eve", None]}, [at(1), at(80), at(1), at(1)], position
    )
    present, null, unknown, old = 1, 2, 3, 4
    assert [list(s) for s in answer.statuses] == [
        [present, present, unknown, unknown],
        [null, null, unknown, unknown],
        [present, old, unknown, unknown],
    ]
    assert answer.position >= position


async def test_wrong_entities_are_named(world: World) -> None:
    position = await world.declare(trips(), ends(), view(), feature_set())
    for entities, says in (({"drivr": ["ann"]}, "did you mean"), ({"driver": [1]}, "declared is string")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.online("late", entities, [at(0)], position)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert says in str(caught.value.trailing_metadata())


async def test_a_view_needs_its_dataset(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.declare(view())
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_feature_set_gets_a_new_version_with_its_views(world: World) -> None:
    position = await world.declare(trips(), ends(), view(), feature_set())
    first = await world.features.GetFeatureSet(api.GetFeatureSetRequest(name="late", min_position=position))
    changed = view()
    changed.features[0].name = "count"
    position = await world.declare(changed, feature_set())
    second = await world.features.GetFeatureSet(api.GetFeatureSetRequest(name="late", min_position=position))
    assert first.version != second.version
    assert [c.name for c in second.columns][1] == "driver_delays_count"
    old = await world.features.GetFeatureSet(api.GetFeatureSetRequest(name="late", version=first.version))
    assert old == first
    listed = await world.features.ListFeatureSets(api.ListFeatureSetsRequest())
    assert [s.version for s in listed.feature_sets] == [second.version]


async def test_a_missing_snapshot_is_named(world: World) -> None:
    await world.declare(trips(), ends(), view(), feature_set())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.build("late", await world.snapshots("trips"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_retired_feature_set_is_not_built(world: World) -> None:
    await world.declare(trips(), ends(), view(), feature_set())
    snapshots = await world.snapshots("trips", "ends")
    retire = api.RetireFeatureSetRequest(request_id=new_request_id(), name="late", reason="another is better")
    position = (await world.features.RetireFeatureSet(retire)).position
    request = api.BuildTrainingSetRequest(
        request_id=new_request_id(), feature_set="late", snapshots=snapshots, min_position=position
    )
    with pytest.raises(grpc.aio.AioRpcError, match="feature_set: feature set 'late' is retired") as caught:
        await world.features.BuildTrainingSet(request).read()
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
