import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from tests.e2e.conftest import Running

pytestmark = pytest.mark.timeout(240)
VICTIMS = ("serving", "lineage", "monitor")
_SECONDS = 60


class Traffic(threading.Thread):
    """Predict one row after the other, and keep the answers."""

    def __init__(self, suite: Running, number: int) -> None:
        super().__init__(name=f"client {number}")
        self._suite = suite
        self._number = number
        self._enough = threading.Event()
        self.answers: list[Any] = []
        self.failures: list[Exception] = []

    def run(self) -> None:
        turn = 0
        with self._suite.client() as client:
            while not self._enough.is_set():
                turn += 1
                key = f"{self._number}-{turn}"
                row = {"order_id": [key], "customer": ["c1"], "amount": [float(turn)], "country": ["AT"]}
                try:
                    answered = client.predict("unpaid", pd.DataFrame(row), key="order_id")
                except Exception as error:
                    self.failures.append(error)
                else:
                    self.answers += answered.to_dict("records")

    def finish(self) -> None:
        self._enough.set()
        self.join()


def until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _SECONDS
    while not reached():
        assert time.monotonic() < end, f"{what} has not come within {_SECONDS} s"
        time.sleep(0.05)  # between two looks at a condition in other processes


def strike(suite: Running, victim: str, clients: list[Traffic]) -> None:
    """Kill a service while every client gets answers; return when it runs again."""
    before = [len(client.answers) for client in clients]
    until(lambda: all(len(c.answers) > n + 30 for c, n in zip(clients, before, strict=True)), "an answer")
    killed = suite.pid(victim)
    os.kill(killed, signal.SIGKILL)
    until(lambda: suite.pid(victim) != killed, f"{victim}'s restart")


def test_every_answer_has_one_record_and_a_span_whoever_is_killed(suite: Running, notebook: dict[str, Any]) -> None:
    clients = [Traffic(suite, number) for number in range(2)]
    for each in clients:
        each.start()
    try:
        for victim in VICTIMS:
            strike(suite, victim, clients)
            suite.lineal("status", "--wait")
    finally:
        for each in clients:
            each.finish()
    assert [each.failures for each in clients] == [[], []]
    answers = {answer["prediction_id"]: answer for each in clients for answer in each.answers}
    assert len(answers) == sum(len(each.answers) for each in clients)

    with suite.client() as client:
        until(lambda: set(answers) <= set(client.predictions("unpaid")["prediction_id"]), "the record of every answer")
        recorded = client.predictions("unpaid").set_index("prediction_id")
    assert recorded.index.is_unique
    found = recorded.loc[list(answers)]
    assert found["score"].tolist() == [answer["score"] for answer in answers.values()]

    traces = set()
    for file in (suite.data / "telemetry").glob("serving-spans.jsonl*"):
        for line in file.read_text().splitlines():
            for span in json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]:
                traces.add(span["traceId"])
    assert {answer["trace_id"] for answer in answers.values()} <= traces
