"""Join the flights in pandas' memory: running sums per key, then merge_asof at both ends of each window.

`python pandas_join.py SNAPSHOTS OUT`; SNAPSHOTS names the Parquet files of each dataset. Prints the seconds from
reading to the written file, as JSON. Rows of arrivals are known when they happen, so running sums in
their order are exact.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

OBSERVATIONS = ["temperature", "wind_speed", "precipitation", "visibility"]
WINDOWS = {"24h": pd.Timedelta(hours=24), "7d": pd.Timedelta(days=7)}
TIME: Any = "datetime64[us, UTC]"  # a Timedelta of whole hours would make nanoseconds of it


def read(files: list[str], columns: list[str]) -> pd.DataFrame:
    """Read columns of files, one under the other."""
    return pd.concat([pd.read_parquet(file, columns=columns) for file in files], ignore_index=True)


def main(snapshots: str, out: str) -> None:
    """Join and write."""
    files = json.loads(Path(snapshots).read_text(encoding="utf-8"))["files"]
    began = time.perf_counter()
    flights = read(
        files["flights"], ["flight_id", "carrier", "tailnum", "origin", "dest", "hour", "distance", "event_time"]
    )
    flights["cutoff"] = (flights.pop("event_time") - pd.Timedelta(hours=2)).astype(TIME)
    arrivals = read(files["arrivals"], ["carrier", "tailnum", "delay", "event_time"])
    weather = read(files["weather"], ["origin", "available_time", *OBSERVATIONS])
    flights = flights.sort_values("cutoff", kind="stable", ignore_index=True)
    weather = weather.sort_values("available_time", kind="stable")
    flights = pd.merge_asof(flights, weather, left_on="cutoff", right_on="available_time", by="origin").drop(
        columns="available_time"
    )
    arrivals = arrivals.sort_values("event_time", kind="stable", ignore_index=True)
    for view, key in (("carrier", "carrier"), ("tail", "tailnum")):
        landed = arrivals.dropna(subset=[key])
        by_key = landed.groupby(key, observed=True)["delay"]
        sums = pd.DataFrame(
            {key: landed[key], "time": landed["event_time"], "n": by_key.cumcount() + 1, "sum": by_key.cumsum()}
        )
        now = pd.merge_asof(flights[["cutoff", key]], sums, left_on="cutoff", right_on="time", by=key)
        for name, width in WINDOWS.items():
            edge = pd.DataFrame({"cutoff": (flights["cutoff"] - width).astype(TIME), key: flights[key]})
            left = pd.merge_asof(edge, sums, left_on="cutoff", right_on="time", by=key)
            count = now["n"].fillna(0) - left["n"].fillna(0)
            flights[f"{view}_n_{name}"] = count
            total = now["sum"].fillna(0) - left["sum"].fillna(0)
            flights[f"{view}_mean_{name}"] = (total / count).where(count > 0)
    flights.to_parquet(out, compression="zstd", index=False)
    print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
