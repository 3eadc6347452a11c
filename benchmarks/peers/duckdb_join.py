# mypy: disable-error-code="import-not-found"
"""Join the flights in DuckDB: `python duckdb_join.py window|asof SNAPSHOTS OUT`; prints the seconds as JSON.

`window` has each flight look back over the landings of its key with a RANGE frame; `asof` joins running sums as of both
ends of each window. Two threads; from reading the snapshots' files to the written Parquet file.
"""

import json
import sys
import time
from pathlib import Path

import duckdb

WINDOWS = {"24h": 86_400, "7d": 604_800}
VIEWS = {"carrier": "carrier", "tail": "tailnum"}
FLIGHTS = """CREATE TEMP TABLE flights AS SELECT flight_id, carrier, tailnum, origin, dest, hour, distance,
    event_time - INTERVAL 2 HOUR AS cutoff FROM read_parquet({flights})"""
WEATHER = """SELECT f.*, w.temperature AS weather_temperature, w.wind_speed AS weather_wind_speed,
    w.precipitation AS weather_precipitation, w.visibility AS weather_visibility
    FROM flights f ASOF LEFT JOIN read_parquet({weather}) w ON f.origin = w.origin AND f.cutoff >= w.available_time"""


def window(view: str, key: str) -> str:
    """Return the query that looks back over each window."""
    # One microsecond less than the window, since RANGE includes both ends.
    frames = ", ".join(
        f"{name}_w AS (PARTITION BY key ORDER BY t RANGE BETWEEN INTERVAL {width * 1_000_000 - 1} MICROSECOND "
        "PRECEDING AND CURRENT ROW)"
        for name, width in ((f"w{label}", seconds) for label, seconds in WINDOWS.items())
    )
    wanted = ", ".join(
        f"count(delay) OVER w{name}_w AS {view}_n_{name}, avg(delay) OVER w{name}_w AS {view}_mean_{name}"
        for name in WINDOWS
    )
    return f"""SELECT flight_id, COLUMNS('^{view}_') FROM (SELECT flight_id, {wanted} FROM (
        SELECT {key} AS key, cutoff AS t, flight_id, NULL AS delay FROM flights UNION ALL
        SELECT {key}, event_time, NULL, delay FROM arrivals WHERE {key} IS NOT NULL) WINDOW {frames})
        WHERE flight_id IS NOT NULL"""


def asof(view: str, key: str) -> str:
    """Return the query that joins running sums."""
    # RANGE, not ROWS: of landings at one instant ASOF takes any, so each must have the sums of all of them.
    sums = f"""SELECT {key} AS key, event_time AS t, count(delay) OVER k AS n, sum(delay) OVER k AS s FROM arrivals
        WHERE {key} IS NOT NULL WINDOW k AS (PARTITION BY {key} ORDER BY event_time RANGE UNBOUNDED PRECEDING)"""
    columns = ", ".join(
        f"coalesce(now.n, 0) - coalesce(l{name}.n, 0) AS {view}_n_{name}, "
        f"(coalesce(now.s, 0) - coalesce(l{name}.s, 0)) / nullif(coalesce(now.n, 0) - coalesce(l{name}.n, 0), 0) "
        f"AS {view}_mean_{name}"
        for name in WINDOWS
    )
    joins = " ".join(
        f"ASOF LEFT JOIN sums l{name} ON f.{key} = l{name}.key AND f.cutoff - INTERVAL {seconds} SECOND >= l{name}.t"
        for name, seconds in WINDOWS.items()
    )
    return f"""WITH sums AS MATERIALIZED ({sums}) SELECT f.flight_id, {columns} FROM flights f
        ASOF LEFT JOIN sums now ON f.{key} = now.key AND f.cutoff >= now.t {joins}"""


def main(how: str, snapshots: str, out: str) -> None:
    """Join and write."""
    files = json.loads(Path(snapshots).read_text(encoding="utf-8"))["files"]
    connection = duckdb.connect(config={"threads": 2, "memory_limit": "12GB"})
    began = time.perf_counter()
    connection.execute(FLIGHTS.format(flights=files["flights"]))
    connection.execute(
        "CREATE TEMP TABLE arrivals AS SELECT carrier, tailnum, delay, event_time "
        f"FROM read_parquet({files['arrivals']})"
    )
    one = window if how == "window" else asof
    joined = " ".join(f"LEFT JOIN ({one(view, key)}) {view}_view USING (flight_id)" for view, key in VIEWS.items())
    query = f"SELECT * FROM ({WEATHER.format(weather=files['weather'])}) {joined} ORDER BY cutoff, flight_id"
    connection.execute(f"COPY ({query}) TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
    print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
