"""Recorded predictions are checked against what features computes anew; a difference raises one alarm."""

import asyncio
import json
import sqlite3
import sys
from contextlib import closing

import grpc
import grpc.aio
import pytest

from chassis.ids import new_request_id
from lineal.api.monitor.v1 import monitor_service_pb2 as api
from lineal.api.monitor.v1.events_pb2 import AlarmRaised, ParityChecked
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.monitor.v1.report_pb2 import AlarmKind
from tests.integration.monitor.world import ENDPOINT, Taxi, at, ends
from tests.integration.running import Suite

_LOOKED_UP = 3


@pytest.fixture
async def taxi(suite: Suite) -> Taxi:
    await suite.start("lineage", "ingest", "features", "monitor")
    taxi = Taxi(suite)
    await taxi.begin()
    return taxi


async def test_honest_predictions_raise_no_alarm_and_a_check_is_recorded_once(taxi: Taxi) -> None:
    assert (await taxi.check()).check.predictions == 0
    early = await taxi.serve("early", at(500), await taxi.send(ends(), taxi.rows[0]))
    # Rows of before the first cut-off come after its answer.
    late = await taxi.serve("late", at(600), await taxi.send(ends(), taxi.rows[1]))
    given = PredictionRecord()
    given.CopyFrom(late[0])
    given.prediction_id, given.numeric_values[:] = "given/0", [9.0] * len(given.numeric_values)
    given.given_columns.extend(["driver_delays_n", "driver_delays_mean"])
    alone = PredictionRecord(prediction_id="alone/0", endpoint=ENDPOINT, bundle_digest=taxi.digest)
    await taxi.record(*early, *late, given, alone)

    request_id = new_request_id()
    first = await taxi.check(request_id)
    assert (first.check.predictions, first.check.values) == (7, 6 * _LOOKED_UP + 1)
    assert (first.check.differing_values, list(first.alarms)) == (0, [])
    assert [first.check.min_position, first.check.max_position] == [early[0].feature_position, late[0].feature_position]
    assert first.check.end_time.ToMicroseconds() == late[0].event_time_micros
    assert await taxi.check(request_id) == first
    assert (await taxi.check()).position == first.position
    assert await taxi.told() == [ParityChecked]

    newest = await taxi.check(predictions=2)
    assert sorted(newest.report.prediction_ids) == ["late/1", "late/2"]
    before = api.CheckParityRequest().end_time
    before.FromMicroseconds(late[0].event_time_micros)
    assert list((await taxi.check(end_time=before)).report.prediction_ids) == ["early/0", "early/1", "early/2"]


async def test_a_difference_raises_an_alarm_that_names_it_once(taxi: Taxi) -> None:
    position = await taxi.send(ends(), taxi.rows[0])
    wrong, right, more = await taxi.serve("first", at(500), position)
    place = taxi.bundle.numeric.index("driver_delays_n")
    count = wrong.numeric_values[place]
    wrong.numeric_values[place] = count + 1
    await taxi.record(wrong, right)

    found = await taxi.check()
    assert (found.check.predictions, found.check.differing_values) == (2, 1)
    assert list(found.check.differing_columns) == ["driver_delays_n"]
    (alarm,) = found.alarms
    assert alarm.kind == AlarmKind.ALARM_KIND_PARITY
    for part in ("driver_delays_n", "first/0", f"served as {count + 1}", f"give {count};", "`lineal features explain"):
        assert part in alarm.finding
    listed = (await taxi.monitor.ListAlarms(api.ListAlarmsRequest(endpoint=ENDPOINT))).alarms
    assert [each.alarm_id for each in listed] == [alarm.alarm_id]
    evidence = await taxi.monitor.GetParityReport(api.GetParityReportRequest(report_digest=alarm.report_digest))
    assert evidence.report == found.report
    assert [each.computed.number for each in evidence.report.differences] == [count]

    command = [sys.executable, "-m", "lineal.cli", "--connect", str(taxi.suite.profile), "parity", ENDPOINT, "--json"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    shown, _ = await process.communicate()
    assert (process.returncode, json.loads(shown)["check"]["differing_predictions"]) == (1, ["first/0"])

    # The same finding among more predictions is no news, another one is.
    await taxi.record(more)
    assert list((await taxi.check()).alarms) == []
    (file,) = (taxi.suite.folder / "features" / "projections").glob("online-v*.db")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("DELETE FROM online_chunks WHERE entity = ?", ['["ann"]']).rowcount
        database.commit()
    # What is cached is read again once an event was applied.
    position = await taxi.send(ends(), [row for row in taxi.rows[1] if row["driver"] == "bob"])
    await taxi.record(*await taxi.serve("second", at(501), position))
    (second,) = (await taxi.check()).alarms
    assert "driver_delays_n of prediction second/0 was served as 0.0" in second.finding
    assert await taxi.told() == [ParityChecked, AlarmRaised, ParityChecked, ParityChecked, AlarmRaised]


async def test_what_cannot_be_checked_is_refused(taxi: Taxi) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="10,001 predictions are too many"):
        await taxi.check(predictions=10_001)
    for request in (api.CheckParityRequest(endpoint="nobody"), api.GetParityReportRequest(report_digest="0" * 64)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(taxi.monitor, type(request).__name__.removesuffix("Request"))(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
