"""Follow a prediction back: record, bundle, run, training set, snapshots, raw rows, spans."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.calls import Services


@dataclass(frozen=True)
class RawRows:
    """Accepted rows of one dataset that speak of an entity of the prediction, the newest first."""

    dataset: str
    key: Mapping[str, str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Trace:
    """Everything behind one prediction. What does not apply is None: an imported model has no training set."""

    prediction: monitor_api.GetPredictionResponse
    bundle: Any
    run: Any = None
    training_set: Any = None
    snapshots: list[Any] = field(default_factory=list)
    raw_rows: list[RawRows] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)


def trace(services: Services, prediction_id: str, *, telemetry: Path | None = None, rows: int = 3) -> Trace:
    """Follow a prediction by its id.

    `telemetry` is the folder of span files on this machine, if it is there; `rows` is how many raw rows are shown per
    dataset. Raises CallFailed when the prediction is unknown.
    """
    found = services.monitor.call("GetPrediction", monitor_api.GetPredictionRequest(prediction_id=prediction_id))
    record = found.prediction
    bundle = services.registry.call("GetBundle", registry_api.GetBundleRequest(digest=record.bundle_digest)).bundle
    spans = list(spans_of(telemetry, record.trace_id)) if telemetry and record.trace_id else []
    if not bundle.training_set_digest:
        return Trace(found, bundle, spans=spans)
    run = services.trainer.call("GetRun", trainer_api.GetRunRequest(run_id=bundle.run_id)).run
    training_set = services.features.call(
        "GetTrainingSet", features_api.GetTrainingSetRequest(digest=bundle.training_set_digest)
    ).training_set
    snapshots = [
        services.ingest.call("GetSnapshot", ingest_api.GetSnapshotRequest(digest=digest)).snapshot
        for _, digest in sorted(training_set.snapshots.items())
    ]
    return Trace(
        found, bundle, run, training_set, snapshots, list(_raw_rows(services, found, training_set, rows)), spans
    )


def spans_of(folder: Path, trace_id: str) -> Iterator[dict[str, Any]]:
    """Yield the spans of a trace from the OTLP JSON lines of a data folder, oldest file first."""
    for file in sorted(folder.glob("*-spans.jsonl*")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if trace_id in line:
                    yield from _spans(line, trace_id)


def _spans(line: str, trace_id: str) -> Iterator[dict[str, Any]]:
    for resource in json.loads(line)["resourceSpans"]:
        names = {item["key"]: item["value"].get("stringValue") for item in resource["resource"]["attributes"]}
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                if span["traceId"] == trace_id:
                    yield {
                        "service": names.get("service.name"),
                        "name": span["name"],
                        "micros": (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) // 1000,
                        "span_id": span["spanId"],
                    }


def _raw_rows(services: Services, found: Any, training_set: Any, rows: int) -> Iterator[RawRows]:
    entities = dict(found.prediction.entities)
    feature_set = services.features.call(
        "GetFeatureSet",
        features_api.GetFeatureSetRequest(name=training_set.feature_set, version=training_set.feature_set_version),
    ).feature_set
    views = {view.name: view for view in _views(services)}
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for wanted in feature_set.view_features:
        view = views.get(wanted.view)
        if view is None:
            continue
        key = {name: entities.get(wanted.keys.get(name, name), "") for name in view.entity_keys}
        if (view.dataset, tuple(key.items())) in seen:
            continue
        seen.add((view.dataset, tuple(key.items())))
        response = services.ingest.call(
            "FindRows",
            ingest_api.FindRowsRequest(
                dataset=view.dataset, key=key, until_position=found.prediction.feature_position, page_size=rows
            ),
        )
        yield RawRows(
            view.dataset,
            key,
            [{"batch_id": row.batch_id, "row": row.row, **json.loads(row.row_json)} for row in response.rows],
        )


def _views(services: Services) -> Iterator[Any]:
    token = ""
    while True:
        page = services.features.call("ListFeatureViews", features_api.ListFeatureViewsRequest(page_token=token))
        yield from page.feature_views
        token = page.next_page_token
        if not token:
            return
