"""The demo: Lineal on real flights, from raw rows to a champion that replaced itself, and one prediction traced back.

It exits 0 only if each thing that it tells was observed.
"""

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from examples.flights.closing import ENDPOINT, HISTORY_END, PAUSE_SECONDS, Story, close, console
from examples.flights.memory import PeakMemory
from examples.flights.replay import REQUEST_COLUMNS, Replay, Slice
from examples.flights.source import load
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.registry.v1.endpoint_pb2 import ArmRole, Saga, SagaState
from lineal.cli import suite
from lineal.client import Client
from lineal.profile import Profile

LEAKY = "flight-delay-departures"
PROJECT = Path(__file__).parent
_SAGA_SECONDS = 300.0
# As the endpoint's policy has it.
PERIOD = pd.Timedelta(days=30)


@dataclass(frozen=True)
class Pace:
    """How much of the past is played: until when, in which slices, and which share of flights is asked for.

    The damaged candidate is trained at `damage` and may be late by what a release takes. From `enough` on, rows are
    handed over without questions once the releases have ended. `overlay` is a folder of definitions to apply on top.
    """

    end: datetime
    enough: datetime
    slice: pd.Timedelta
    share: float
    damage: datetime
    overlay: Path | None = None


FULL = Pace(
    end=datetime(2013, 9, 1, tzinfo=UTC),
    enough=datetime(2013, 9, 1, tzinfo=UTC),
    slice=pd.Timedelta(hours=24),
    share=0.15,
    damage=datetime(2013, 7, 10, tzinfo=UTC),
)
QUICK = Pace(
    end=datetime(2013, 8, 1, tzinfo=UTC),
    enough=datetime(2013, 7, 3, tzinfo=UTC),
    slice=pd.Timedelta(hours=48),
    share=0.08,
    damage=datetime(2013, 6, 8, tzinfo=UTC),
    overlay=PROJECT / "quick",
)


def run(*, quick: bool, data: Path | None, connect: str | None) -> int:
    """Run the demo on a suite of its own, or against one that runs; return the exit code."""
    started = time.monotonic()
    folder = (data or Path("data") / f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}").resolve()
    process = None
    if connect is None:
        os.environ.setdefault("LINEAL_WORKFLOWS_WATCH_SECONDS", "2")
        console.print(f"Starting Lineal on {folder}")
        process = suite.start(folder, free_ports=True)
        profile = suite.wait_until_healthy(folder, process)
    else:
        profile = Profile.load(connect)
    try:
        with PeakMemory() as memory, Client(profile, deadline_seconds=60) as client:
            story = _Demo(client, QUICK if quick else FULL).play()
            close(client, profile, story, folder / "telemetry" if process else None)
    finally:
        if process:
            suite.stop(folder)
    good = all(holds for _, holds, _ in story.checks)
    console.print(f"{'Everything was observed' if good else 'NOT everything was observed'} in {_minutes(started)}.")
    if process:
        console.print(f"At most {memory.bytes / 2**30:.1f} GiB of memory in all processes together.")
        console.print(f"`lineal up --data {folder}` opens the links again.")
    return 0 if good else 1


class _Demo:
    def __init__(self, client: Client, pace: Pace) -> None:
        self.client = client
        self.pace = pace
        self.story = Story(pace.end)
        self.replay = Replay(load())
        self._watched = False

    def play(self) -> Story:
        self._history()
        self._first_champion()
        month = 0
        for piece in self.replay.slices(HISTORY_END, self.pace.end, self.pace.slice, self.pace.share):
            if piece.start >= self.pace.enough and self.story.damaged is not None and self._idle():
                self._rest(piece.start)
                break
            if piece.start.month != month:
                month = piece.start.month
                console.print(f"{piece.start:%B}: live traffic, {self.story.asked:,} predictions so far")
            self._live(piece)
            self._retrain_if_alarmed(piece)
            if self.story.damaged is None and piece.end >= self.pace.damage and self._idle():
                self._damage(piece)
        self._settle()
        return self.story

    def _rest(self, start: pd.Timestamp) -> None:
        """Hand over all rows that are left, for the comparison of champions on every flight."""
        console.print(f"{start:%d %B}: both releases have ended; the rows that are left are handed over at once")
        end = pd.Timestamp(self.pace.end)
        rest = next(self.replay.slices(start, end, end - start, share=0))
        self._hand_over(rest, rest.rows)

    def _history(self) -> None:
        self.client.apply(PROJECT)
        if self.pace.overlay:
            self.client.apply(self.pace.overlay)
        rows = {"planes": self.replay.planes, **self.replay.history(HISTORY_END)}
        for name, table in rows.items():
            done = self.client.ingest(name, table, batch_id="2013-q1")
            self.story.position = max(self.story.position, done.position)
            self.story.check(f"history of {name}", done.quarantined == 0, f"{done.accepted:,} rows accepted")
        console.print(f"January to March ingested: {sum(map(len, rows.values())):,} rows")

    def _first_champion(self) -> None:
        saga_id = self.client.train(ENDPOINT, reason="first champion", end=HISTORY_END)
        saga = self._follow(saga_id)
        self.story.first = self.story.champion = saga.bundle_digest
        self.story.check("first champion", saga.state == SagaState.SAGA_STATE_COMPLETED, saga.outcome)

    def _live(self, piece: Slice) -> None:
        """Hand over a slice's rows and ask for its flights.

        Features are as of each flight's cut-off, so rows may come before the questions of their slice. Not so where the
        available time lies: departures are handed over after them, as a flight leaves after its question.
        """
        late = {"departures": piece.rows["departures"]}
        self._hand_over(piece, {name: rows for name, rows in piece.rows.items() if name not in late})
        if len(piece.asked):
            self._ask(piece)
        self._hand_over(piece, late)

    def _hand_over(self, piece: Slice, tables: dict[str, pd.DataFrame]) -> None:
        for name, rows in tables.items():
            if len(rows):
                done = self.client.ingest(name, rows, batch_id=f"{piece.start:%Y-%m-%dT%H}")
                self.story.position = max(self.story.position, done.position)

    def _ask(self, piece: Slice) -> None:
        self.story.sent += len(piece.asked)
        answers = self.client.predict(
            ENDPOINT,
            piece.asked[REQUEST_COLUMNS].reset_index(drop=True),
            key="flight_id",
            event_time=piece.asked["cutoff"].reset_index(drop=True),
            min_position=self.story.position,
        )
        self.story.asked += len(answers)
        self.story.sample = str(answers["prediction_id"].iloc[-1])

    def _retrain_if_alarmed(self, piece: Slice) -> None:
        """Wait, when an alarm has started a retrain, until it has trained: days pass in a second here.

        A period that the traffic has passed is waited for as well, so that the replay does not outrun the watch.
        """
        if piece.start.floor("30D") != piece.end.floor("30D"):
            self._wait_for_period(piece.end.floor("30D"))
        if self.story.retrain is not None:
            return
        if not self._watched:
            saga = next((s for s in self.client.sagas(ENDPOINT) if s.alarm_id), None)
            if saga is None:
                return
            self._watched = True
            console.print(f"{piece.end:%d %B}: {saga.reason}", highlight=False)
            self.story.sagas.append(saga.saga_id)
            self._until_released(saga.saga_id)
        saga = self.client.saga(self.story.sagas[-1])
        if saga.state != SagaState.SAGA_STATE_ACTIVE:
            self._tell(saga)
            self.story.retrain = saga
            self.story.champion = saga.bundle_digest

    def _wait_for_period(self, end: pd.Timestamp) -> None:
        """Wait until monitor has closed the period before the one that has just begun."""
        bound = end - PERIOD
        request = monitor_api.ListPeriodsRequest(endpoint=ENDPOINT)

        def closed() -> Any:
            periods = self.client.services.monitor.call("ListPeriods", request).periods
            return next((p for p in periods if p.end_time.ToDatetime(tzinfo=UTC) >= bound), None)

        if bound > HISTORY_END:
            found = self._wait(closed)
            if found.drifted_columns:
                console.print(f"  period until {bound:%d %B}: {len(found.drifted_columns)} columns drifted")

    def _damage(self, piece: Slice) -> None:
        console.print(f"{piece.end:%d %B}: a candidate is trained on a column that is null online")
        saga_id = self.client.train(
            ENDPOINT, reason="looks better offline", end=piece.end.to_pydatetime(), feature_set=LEAKY
        )
        self.story.sagas.append(saga_id)
        self._until_released(saga_id)
        self.story.damaged = self.client.saga(saga_id)

    def _settle(self) -> None:
        """Wait for what is still under way; the traffic has ended, so a release that needs more of it is stopped."""
        for saga_id in self.story.sagas:
            saga = self.client.saga(saga_id)
            if self.story.damaged is not None and saga_id == self.story.damaged.saga_id:
                self.story.damaged = saga
            elif saga.state != SagaState.SAGA_STATE_ACTIVE:
                self.story.retrain = saga

    def _idle(self) -> bool:
        return self.story.retrain is not None and not self.client.endpoint(ENDPOINT).active_saga_id

    def _until_released(self, saga_id: str) -> None:
        """Return when the saga's candidate is on the endpoint, or the saga has ended."""

        def released() -> bool:
            if self.client.saga(saga_id).state != SagaState.SAGA_STATE_ACTIVE:
                return True
            arms = self.client.endpoint(ENDPOINT).arms
            return any(arm.role != ArmRole.ARM_ROLE_CHAMPION for arm in arms)

        self._wait(lambda: released() or None)

    def _follow(self, saga_id: str) -> Saga:
        self.story.sagas.append(saga_id)
        *_, found = self.client.watch_saga(saga_id)
        self._tell(found)
        self.story.sagas.remove(saga_id)
        return found

    def _tell(self, saga: Saga) -> None:
        for step in saga.steps:
            console.print(f"  [dim]{step.step}: {step.finding}[/dim]", highlight=False)
        console.print(f"  {saga.saga_id}: {saga.outcome}", highlight=False)

    def _wait(self, condition: Any) -> Any:
        end = time.monotonic() + _SAGA_SECONDS
        while time.monotonic() < end:
            found = condition()
            if found is not None:
                return found
            time.sleep(PAUSE_SECONDS)
        raise TimeoutError("what was waited for did not come; `lineal sagas` and the logs show why")


def _minutes(started: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    return f"{minutes} min {seconds} s"
