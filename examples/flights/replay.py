"""Replay the past as live traffic: rows in the order in which they became available, predictions between."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from examples.flights.source import Tables

CUTOFF = pd.Timedelta(hours=2)
# The mistake of the damaged candidate's table: rows say that they were there so long before departure.
CLAIMED_LEAD = pd.Timedelta(hours=3)
REQUEST_COLUMNS = [
    "flight_id",
    "carrier",
    "origin",
    "dest",
    "tailnum",
    "distance",
    "month",
    "day_of_week",
    "hour",
    "minute",
]


@dataclass(frozen=True)
class Slice:
    """A span of the past.

    `rows` became available in [start, end), by dataset; `asked` are the flights whose cut-off lies in it, with the
    cut-off as `event_time`.
    """

    start: pd.Timestamp
    end: pd.Timestamp
    rows: dict[str, pd.DataFrame]
    asked: pd.DataFrame


class Replay:
    """The tables of the example, cut by time."""

    def __init__(self, tables: Tables) -> None:
        self._planes = tables.planes
        # `delivered` is when a row is handed over; it is the available time where that is true.
        self._timed = {
            "flights": tables.flights.assign(delivered=tables.flights["available_time"]),
            "arrivals": tables.arrivals.assign(delivered=tables.arrivals["available_time"]),
            "weather": tables.weather.assign(delivered=tables.weather["available_time"]),
            "departures": departures(tables),
        }
        self._asked = tables.flights.assign(cutoff=tables.flights["event_time"] - CUTOFF)

    @property
    def planes(self) -> pd.DataFrame:
        """The aircraft, which have no time."""
        return self._planes

    def history(self, until: datetime) -> dict[str, pd.DataFrame]:
        """Return everything that was available before a moment, by dataset."""
        return self._between(None, pd.Timestamp(until))

    def slices(self, start: datetime, end: datetime, length: pd.Timedelta, share: float) -> Iterator[Slice]:
        """Yield the past from `start` to `end` in slices.

        Of the flights a share is asked for, chosen by a hash of their id: always the same ones, whatever the slices.
        """
        left, last = pd.Timestamp(start), pd.Timestamp(end)
        chosen = self._asked[self._asked["flight_id"].map(lambda name: chance(name) < share)]
        while left < last:
            right = min(left + length, last)
            asked = chosen[(chosen["cutoff"] >= left) & (chosen["cutoff"] < right)].sort_values("cutoff")
            yield Slice(left, right, self._between(left, right), asked.drop(columns="event_time"))
            left = right

    def _between(self, start: pd.Timestamp | None, end: pd.Timestamp) -> dict[str, pd.DataFrame]:
        found = {}
        for name, table in self._timed.items():
            there = table["delivered"] < end
            if start is not None:
                there &= table["delivered"] >= start
            found[name] = table[there].sort_values("delivered", kind="stable").drop(columns="delivered")
        return found


def departures(tables: Tables) -> pd.DataFrame:
    """Give the table of departure delays: delivered at departure, stamped three hours before the scheduled one."""
    left = tables.arrivals.merge(
        tables.flights[["flight_id", "event_time"]], on="flight_id", suffixes=("", "_scheduled")
    )
    stamp = left["event_time_scheduled"] - CLAIMED_LEAD
    return pd.DataFrame(
        {
            "flight_id": left["flight_id"],
            "departure_delay": left["departure_delay"],
            "event_time": stamp,
            "available_time": stamp,
            "delivered": left["departure_time"],
        }
    )


def chance(name: str) -> float:
    """Return a number in [0, 1) that depends on a name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
