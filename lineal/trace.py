"""Follow a prediction back: record, bundle, run, training set, snapshots, the rows behind its features, spans."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.calls import Services
from lineal.explain import View, explain


@dataclass(frozen=True)
class Trace:
    """Everything behind one prediction.

    What does not apply is None: a fallback's answer has no bundle, an imported model no training set.
    """

    prediction: monitor_api.GetPredictionResponse
    bundle: Any = None
    run: Any = None
    training_set: Any = None
    snapshots: list[Any] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)


def trace(services: Services, prediction_id: str, *, telemetry: Path | None = None) -> Trace:
    """Follow a prediction by its id.

    `telemetry` is the folder of span files on this machine, if it is there. Raises CallFailed when the prediction is
    unknown.
    """
    found = services.monitor.call("GetPrediction", monitor_api.GetPredictionRequest(prediction_id=prediction_id))
    record = found.prediction
    spans = list(spans_of(telemetry, record.trace_id)) if telemetry and record.trace_id else []
    if not record.bundle_digest:
        return Trace(found, spans=spans)
    bundle = services.registry.call("GetBundle", registry_api.GetBundleRequest(digest=record.bundle_digest)).bundle
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
    views = []
    if record.feature_position:
        name, version = training_set.feature_set, training_set.feature_set_version
        entities = dict(record.entities)
        views = explain(services, name, version, entities, record.event_time_micros, record.feature_position)
    return Trace(found, bundle, run, training_set, snapshots, views, spans)


def served(found: monitor_api.GetPredictionResponse) -> dict[str, float | str | None]:
    """Return the values of a prediction as they were scored, by column."""
    record = found.prediction
    numbers = dict(zip(found.numeric_columns, record.numeric_values, strict=True))
    return {**numbers, **dict(zip(found.categorical_columns, record.categorical_values, strict=True))}


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
                        "stages": dict(_stages(span)),
                    }


def _stages(span: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield how long parts of a span took, in microseconds, where its service said so: `lineal.<stage>_micros`."""
    for item in span.get("attributes", ()):
        name = item["key"].removeprefix("lineal.").removesuffix("_micros")
        if item["key"] == f"lineal.{name}_micros":
            yield name, int(item["value"]["intValue"])
