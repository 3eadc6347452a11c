"""The end of the demo: what was observed, month by month, and one prediction traced back."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaState
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.api.trainer.v1.run_pb2 import Evaluation, Metric
from lineal.cli.look import trace_tree
from lineal.cli.output import short
from lineal.cli.parity import parity_line
from lineal.client import Client, new_request_id
from lineal.profile import Profile
from lineal.trace import trace

ENDPOINT = "flight-delay"
HISTORY_END = datetime(2013, 4, 1, tzinfo=UTC)
# The month whose every flight shows whether retraining paid.
_PAID_IN = 7
# Newest predictions whose features are computed anew.
_CHECKED = 2_000
# Between two questions to a service: what is waited for happens in another process, which tells nobody.
PAUSE_SECONDS = 0.2
# Without a terminal there is no width to keep to: logs read best in whole lines.
console = Console() if sys.stdout.isatty() else Console(width=140)


@dataclass
class Story:
    """What was observed of a replay until `end`."""

    end: datetime
    sent: int = 0
    asked: int = 0
    first: str = ""
    champion: str = ""
    sample: str = ""
    position: int = 0
    alarms: list[Any] = field(default_factory=list)
    sagas: list[str] = field(default_factory=list)
    retrain: Saga | None = None
    damaged: Saga | None = None
    checks: list[tuple[str, bool, str]] = field(default_factory=list)

    def check(self, what: str, holds: bool, finding: str) -> None:
        """Note whether something was observed."""
        self.checks.append((what, holds, finding))


def close(client: Client, profile: Profile, story: Story, telemetry: Path | None) -> None:
    """Check what was told against what the services recorded, and print it."""
    frame = _recorded(client, story)
    alarms = client.alarms(ENDPOINT)
    counters = client.services.serving.call("GetCounters", serving_api.GetCountersRequest()).endpoints
    recorded = int(frame["prediction_id"].nunique())
    story.check("served = recorded", recorded == story.asked, f"{story.asked:,} answered, {recorded:,} recorded")
    failed = sum(entry.failed_requests for entry in counters)
    # What a service that was just away could not answer, the SDK asked again under the same request id.
    finding = f"{story.sent - story.asked} of {story.sent:,} failed, {failed} attempts were repeated"
    story.check("no request failed in any release", story.asked == story.sent, finding)
    story.check("an alarm was raised by itself", bool(alarms), alarms[-1].finding if alarms else "none")
    _check_sagas(story, frame)
    checked = client.check_parity(ENDPOINT, predictions=_CHECKED).check
    parity = checked.predictions > 0 and checked.differing_values == 0
    story.check("served features are what rows give", parity, parity_line(checked))
    _months(client, story, frame)
    if telemetry is not None:
        missing = _without_span(telemetry, set(frame["trace_id"]))
        story.check("every prediction has its span", missing == 0, f"{missing} of {recorded:,} missing")
    found = trace(client.services, story.sample, telemetry=telemetry)
    traced = bool(found.run and found.snapshots and any(view.rows for view in found.views))
    story.check("a prediction is traced to its raw rows", traced, story.sample)
    console.print(trace_tree(found))
    _links(profile, story, alarms)
    table = Table("observed", "", "finding", box=None, header_style="bold")
    for what, holds, finding in story.checks:
        table.add_row(what, "[green]yes[/green]" if holds else "[red]NO[/red]", finding)
    console.print(table)


def _recorded(client: Client, story: Story) -> pd.DataFrame:
    """Wait until the records have arrived: they go to monitor in batches."""
    end = time.monotonic() + 60
    while True:
        request = monitor_api.GetCountersRequest(endpoint=ENDPOINT)
        count = client.services.monitor.call("GetCounters", request).endpoints[0].recorded
        if count >= story.asked or time.monotonic() > end:
            return client.predictions(ENDPOINT, min_position=story.position)
        time.sleep(PAUSE_SECONDS)


def _check_sagas(story: Story, frame: pd.DataFrame) -> None:
    retrain, damaged = story.retrain, story.damaged
    done = retrain is not None and retrain.state == SagaState.SAGA_STATE_COMPLETED and bool(retrain.alarm_id)
    story.check("the alarm's retrain was promoted", done, retrain.outcome if retrain else "it did not end")
    if damaged is None:
        story.check("the damaged candidate was thrown out", False, "it was never released")
        return
    undone = damaged.state == SagaState.SAGA_STATE_COMPENSATED
    story.check("the damaged candidate was thrown out", undone, damaged.outcome or "it is still there")
    own = frame[frame["bundle_digest"] == damaged.bundle_digest]
    scored = f"score_{damaged.bundle_digest}"
    during = int(frame[scored].notna().sum()) + len(own) if scored in frame else len(own)
    share = len(own) / max(during, 1)
    # None at all when the shadow shows the harm already.
    story.check("it answered under 10 % of its release", during > 0 and share < 0.1, f"{len(own)} of {during:,}")


def _months(client: Client, story: Story, frame: pd.DataFrame) -> None:
    """Set month beside month: what was served, what drifted, and both champions on every flight of the month."""
    table = Table("month", "predictions", "drift", "champion", "AUC", "first champion's", box=None, header_style="bold")
    end = story.end
    training_set = _all_flights(client, story, end)
    periods = client.services.monitor.call("ListPeriods", monitor_api.ListPeriodsRequest(endpoint=ENDPOINT)).periods
    for month, rows in frame.groupby(frame["event_time"].dt.tz_localize(None).dt.to_period("M")):
        start = month.start_time.tz_localize("UTC").to_pydatetime()
        until = min((month + 1).start_time.tz_localize("UTC").to_pydatetime(), end)
        champion = str(rows["bundle_digest"].value_counts().index[0])
        evaluation = _evaluate(client, training_set, list(dict.fromkeys([champion, story.first])), start, until)
        aucs = [_metric(bundle.metrics, "auc").value for bundle in evaluation.bundles]
        closed = [p for p in periods if start < p.end_time.ToDatetime(tzinfo=UTC) <= until]
        drifted = sum(len(period.drifted_columns) for period in closed)
        table.add_row(
            str(month),
            f"{len(rows):,}",
            f"{drifted} columns" if closed else "-",
            short(champion),
            f"{aucs[0]:.4f}",
            f"{aucs[-1]:.4f}",
        )
        if month.month == _PAID_IN:
            _check_paid(story, evaluation, champion)
    console.print(f"Every flight until {end:%d %B}, scored by the month's champion and by the first:")
    console.print(table)


def _check_paid(story: Story, evaluation: Evaluation, champion: str) -> None:
    if champion == story.first:
        story.check("retraining paid in July", False, "the first champion still serves")
        return
    auc = _metric(evaluation.differences[0].metrics, "auc")
    finding = f"AUC {auc.value:+.4f} [{auc.lower:+.4f}, {auc.upper:+.4f}] on {evaluation.rows:,} flights"
    story.check("retraining paid in July", auc.lower > 0, finding)


def _all_flights(client: Client, story: Story, end: datetime) -> str:
    """Build the training set of all flights since the first champion's end; return its digest."""
    found = client.services.features.call("GetFeatureSet", features_api.GetFeatureSetRequest(name=ENDPOINT))
    snapshots = {
        name: client.services.ingest.call(
            "CreateSnapshot", ingest_api.CreateSnapshotRequest(request_id=new_request_id(), dataset=name)
        ).snapshot.digest
        for name in found.datasets
    }
    build = features_api.BuildTrainingSetRequest(
        request_id=new_request_id(), feature_set=ENDPOINT, snapshots=snapshots, min_position=story.position
    )
    build.start_time.FromDatetime(HISTORY_END)
    build.end_time.FromDatetime(end)
    *_, last = client.services.features.collect("BuildTrainingSet", build, timeout=120)
    return str(last.training_set.digest)


def _evaluate(client: Client, training_set: str, bundles: Sequence[str], start: datetime, end: datetime) -> Evaluation:
    request = trainer_api.EvaluateBundlesRequest(
        request_id=new_request_id(), training_set_digest=training_set, bundle_digests=bundles
    )
    request.start_time.FromDatetime(start)
    request.end_time.FromDatetime(end)
    found: Evaluation = client.services.trainer.call("EvaluateBundles", request, timeout=180).evaluation
    return found


def _metric(metrics: Iterable[Metric], name: str) -> Metric:
    return next(metric for metric in metrics if metric.name == name)


def _without_span(telemetry: Path, trace_ids: set[str]) -> int:
    # A span is on disk before its answer leaves, so there is nothing to wait for.
    text = "".join(file.read_text(encoding="utf-8") for file in telemetry.glob("serving-spans.jsonl*"))
    return len(trace_ids - set(_trace_ids(text)))


def _trace_ids(text: str) -> list[str]:
    marker = '"traceId":"' if '"traceId":"' in text else '"traceId": "'
    return [part[:32] for part in text.split(marker)[1:]]


def _links(profile: Profile, story: Story, alarms: list[Any]) -> None:
    console.print("Alarms")
    for alarm in reversed(alarms):
        console.print(f"  {alarm.period_end_time.ToDatetime():%Y-%m-%d} {alarm.finding}", highlight=False)
    console.print("Sagas")
    for saga_id in story.sagas:
        address = f"http://{profile.address('temporal-ui')}/namespaces/default/workflows/{saga_id}"
        console.print(f"  {address}", highlight=False, soft_wrap=True)
