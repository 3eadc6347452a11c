"""Clients in a closed loop: each asks again once it is answered."""

import time
from collections.abc import Callable, Sequence

import numpy as np

_WARM_SECONDS = 1.0


class ClosedLoop:
    """Some clients that send the bodies given in turn, through a connection that calls `answered`."""

    def __init__(self, bodies: Sequence[bytes], clients: int, seconds: float) -> None:
        self._bodies = bodies
        self._next = 0
        self._started = [0.0] * clients
        self._seconds = seconds
        self._latencies: list[float] = []
        self._begin = self._end = 0.0

    def run(self, call: Callable[[int, bytes], None], run: Callable[[], None]) -> dict[str, float]:
        """Ask for the time given, after warming up; the rate of answers, and how long they took, in ms."""
        self._call = call
        self._begin = time.perf_counter() + _WARM_SECONDS
        self._end = self._begin + self._seconds
        for number in range(len(self._started)):
            self._ask(number)
        run()
        return {"rate": len(self._latencies) / self._seconds, **percentiles(self._latencies, scale=1000)}

    def answered(self, number: int, _: bytes) -> None:
        """Note an answer and ask again."""
        now = time.perf_counter()
        if self._begin <= now < self._end:
            self._latencies.append(now - self._started[number])
        if now < self._end:
            self._ask(number)

    def _ask(self, number: int) -> None:
        self._next = (self._next + 1) % len(self._bodies)
        self._started[number] = time.perf_counter()
        self._call(number, self._bodies[self._next])


def percentiles(latencies: Sequence[float], scale: float = 1) -> dict[str, float]:
    """Return the median and the 99th percentile, as `p50` and `p99`."""
    return {f"p{p}": float(np.percentile(latencies, p)) * scale for p in (50, 99)}
