from datetime import UTC, datetime

import pandas as pd
import pytest

from examples.flights import source

ZONES = {
    "LAX": "America/Los_Angeles",
    "PBI": "America/New_York",
    "HNL": "Pacific/Honolulu",
    **source.ZONES_NOT_IN_AIRPORTS,
}


def raw(**changes: object) -> pd.DataFrame:
    """One flight as the package has it: JFK to Los Angeles on 15 January, 22:30 to 01:45, a quarter of an hour late."""
    row: dict[str, object] = {
        "year": 2013, "month": 1, "day": 15, "carrier": "DL", "flight": 7, "tailnum": "N1", "origin": "JFK",
        "dest": "LAX", "sched_dep_time": 2230, "sched_arr_time": 145, "dep_delay": 20.0, "arr_delay": 15.0,
        "distance": 2475,
    }  # fmt: skip
    return pd.DataFrame([row | changes])


def schedule(**changes: object) -> pd.Series:
    return source.flights(raw(**changes), ZONES).iloc[0]


def test_a_departure_is_the_wall_clock_of_new_york() -> None:
    assert schedule()["event_time"] == datetime(2013, 1, 16, 3, 30, tzinfo=UTC)
    assert schedule(month=7)["event_time"] == datetime(2013, 7, 16, 2, 30, tzinfo=UTC)
    assert schedule()[["month", "day_of_week", "hour", "minute"]].tolist() == [1, 1, 22, 30]


def test_an_arrival_is_the_first_such_clock_time_at_the_destination_after_departure() -> None:
    assert schedule()["scheduled_arrival"] == datetime(2013, 1, 16, 9, 45, tzinfo=UTC)
    same_day = schedule(sched_dep_time=900, sched_arr_time=1220)
    assert same_day["scheduled_arrival"] == datetime(2013, 1, 15, 20, 20, tzinfo=UTC)
    westward = schedule(dest="HNL", sched_dep_time=1000, sched_arr_time=1520)
    assert westward["scheduled_arrival"] == datetime(2013, 1, 16, 1, 20, tzinfo=UTC)


def test_an_arrival_may_cross_the_night_that_skips_an_hour() -> None:
    flight = schedule(month=3, day=9, dest="PBI", sched_dep_time=2145, sched_arr_time=34)
    assert flight["scheduled_arrival"] == datetime(2013, 3, 10, 5, 34, tzinfo=UTC)


def test_an_airport_that_the_package_does_not_know_has_a_zone() -> None:
    known = source.zones(pd.DataFrame({"faa": ["LAX", "XXX"], "tzone": ["America/Los_Angeles", None]}))
    assert known["SJU"] == "America/Puerto_Rico"
    assert "XXX" not in known


def test_a_destination_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="1 flights go to an airport without a time zone"):
        schedule(dest="XXX")


def test_the_schedule_is_known_a_day_ahead_and_holds_no_outcome() -> None:
    flight = schedule()
    assert flight["event_time"] - flight["available_time"] == pd.Timedelta(hours=24)
    assert not {"departure_delay", "arrival_delay", "departure_time"} & set(flight.index)


def test_a_landing_is_the_scheduled_arrival_plus_the_delay_and_known_at_once() -> None:
    rows = raw()
    landing = source.arrivals(rows, source.flights(rows, ZONES)).iloc[0]
    assert landing["event_time"] == landing["available_time"] == datetime(2013, 1, 16, 10, 0, tzinfo=UTC)
    assert landing["departure_time"] == datetime(2013, 1, 16, 3, 50, tzinfo=UTC)


def test_a_flight_that_never_landed_is_in_the_schedule_alone() -> None:
    rows = raw(dep_delay=None, arr_delay=None, tailnum=None)
    table = source.flights(rows, ZONES)
    assert len(table) == 1
    assert source.arrivals(rows, table).empty


def test_weather_is_known_when_its_hour_is_over() -> None:
    observed = dict.fromkeys(source.OBSERVATIONS, 1)
    (row,) = source.weather(
        pd.DataFrame([{"origin": "JFK", **observed, "time_hour": "2013-01-15T10:00:00Z"}])
    ).itertuples()
    assert row.event_time == datetime(2013, 1, 15, 10, tzinfo=UTC)
    assert row.available_time == datetime(2013, 1, 15, 11, tzinfo=UTC)


@pytest.fixture(scope="module")
def tables() -> source.Tables:
    return source.load()


def test_the_year_is_complete_and_every_flight_has_its_own_id(tables: source.Tables) -> None:
    assert len(tables.flights) == 336_776
    assert tables.flights["flight_id"].is_unique
    assert len(tables.arrivals) == 327_346
    assert tables.arrivals["flight_id"].isin(tables.flights["flight_id"]).all()
    assert not tables.weather.duplicated(["origin", "event_time"]).any()
    assert tables.planes["tailnum"].is_unique


def test_times_are_microseconds_in_utc_and_rows_come_as_they_became_known(tables: source.Tables) -> None:
    for table in (tables.flights, tables.arrivals, tables.weather):
        assert {str(table[name].dtype) for name in ("event_time", "available_time")} == {"datetime64[us, UTC]"}
        assert table["available_time"].is_monotonic_increasing


def test_every_flight_takes_a_believable_time(tables: source.Tables) -> None:
    scheduled = tables.flights["scheduled_arrival"] - tables.flights["event_time"]
    assert scheduled.between(pd.Timedelta(minutes=50), pd.Timedelta(hours=12)).all()
    flown = tables.arrivals["event_time"] - tables.arrivals["departure_time"]
    assert (flown > pd.Timedelta(minutes=20)).all()
