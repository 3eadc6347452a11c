"""The log as OpenLineage run events (core specification 2-0-2), one START and one COMPLETE, FAIL or ABORT per run.

What takes time is a run with the times of its events: training runs and sagas. What the log knows only as done (a
batch, a snapshot, a training set, gates, a segment) starts and completes at the same time; its run id is the event's
id. Things that have versions are one OpenLineage dataset whose `version` facet is the digest. A run that a saga caused
names it as its parent.
"""

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, DatasetRegistered, SnapshotCreated
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.monitor.v1.events_pb2 import SegmentSealed
from lineal.api.registry.v1.endpoint_pb2 import SagaKind, SagaState
from lineal.api.registry.v1.events_pb2 import BundleRegistered, GatesEvaluated, SagaFinished, SagaRequested
from lineal.api.trainer.v1.events_pb2 import ModelImported, RunCompleted, RunFailed, RunStarted
from lineal.openlineage_facets import NAMESPACE, PRODUCER, SPEC, assembled, declared, facet, statistics, validated
from lineal.records import message_of

_EVENT_SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
# Saga ids are no UUIDs.
_SAGAS = uuid.UUID("5f0f6d3e-6f1c-5c0e-9a52-0d9c9f0b6d11")

Event = dict[str, Any]

# The messages that an export is made from; it must see all of them, from the beginning of the log.
SEEN: tuple[type[Message], ...] = (
    DatasetRegistered,
    FeatureViewRegistered,
    FeatureSetRegistered,
    BatchAccepted,
    SnapshotCreated,
    TrainingSetBuilt,
    RunStarted,
    RunCompleted,
    RunFailed,
    ModelImported,
    BundleRegistered,
    GatesEvaluated,
    SegmentSealed,
    SagaRequested,
    SagaFinished,
)


class OpenLineageExport:
    """Turns records, seen in order of position, into OpenLineage events; keeps names that later ones refer to."""

    def __init__(self) -> None:
        self._model_of_run: dict[str, str] = {}
        self._inputs_of_run: dict[str, list[Event]] = {}
        self._model_of_bundle: dict[str, str] = {}
        self._feature_set_of: dict[str, str] = {}
        self._declared: dict[str, Event] = {}
        self._views: dict[str, FeatureView] = {}
        self._assembled: dict[str, Event] = {}
        self._endpoint_of_saga: dict[str, str] = {}
        self._rules: dict[type[Message], Callable[[EventRecord, Any], list[Event]]] = {
            DatasetRegistered: self._dataset_declared,
            FeatureViewRegistered: self._view_declared,
            FeatureSetRegistered: self._set_declared,
            BatchAccepted: self._batch,
            SnapshotCreated: self._snapshot,
            TrainingSetBuilt: self._training_set,
            RunStarted: self._run_started,
            RunCompleted: self._run_completed,
            RunFailed: self._run_failed,
            ModelImported: self._imported,
            BundleRegistered: self._registered,
            GatesEvaluated: self._gates,
            SegmentSealed: self._segment,
            SagaRequested: self._saga_requested,
            SagaFinished: self._saga_finished,
        }

    def see(self, record: EventRecord) -> list[Event]:
        """Return the OpenLineage events of a record; none for types that say nothing about lineage."""
        message = message_of(record)
        rule = self._rules.get(type(message)) if message is not None else None
        return rule(record, message) if rule else []

    def _dataset_declared(self, _record: EventRecord, event: DatasetRegistered) -> list[Event]:
        self._declared[event.dataset.name] = declared(event.dataset)
        return []

    def _view_declared(self, _record: EventRecord, event: FeatureViewRegistered) -> list[Event]:
        self._views[event.feature_view.name] = event.feature_view
        return []

    def _set_declared(self, _record: EventRecord, event: FeatureSetRegistered) -> list[Event]:
        # Now, because a view may be declared anew before the next set is built of it.
        self._assembled[event.version] = assembled(event, self._views)
        return []

    def _table(self, name: str, version: str = "", *, rows: int | None = None) -> Event:
        found = _dataset("dataset", name, version, rows=rows)
        found["facets"] |= self._declared.get(name, {})
        return found

    def _batch(self, record: EventRecord, event: BatchAccepted) -> list[Event]:
        # What was handed over is not kept as such: a dataset of its own, so that what validation found has a place.
        handed = _dataset("batch", f"{event.dataset}/{event.batch_id}")
        handed["inputFacets"] = {"dataQualityAssertions": validated(event)}
        made = [self._table(event.dataset, rows=event.accepted_rows)] if event.accepted_rows else []
        return self._at_once(record, f"ingest/{event.dataset}", "BATCH", [handed], made)

    def _snapshot(self, record: EventRecord, event: SnapshotCreated) -> list[Event]:
        made = self._table(event.dataset, event.snapshot_digest, rows=event.rows)
        return self._at_once(record, f"snapshot/{event.dataset}", "BATCH", [self._table(event.dataset)], [made])

    def _training_set(self, record: EventRecord, event: TrainingSetBuilt) -> list[Event]:
        self._feature_set_of[event.training_set_digest] = event.feature_set
        read = [self._table(name, digest) for name, digest in sorted(event.snapshots.items())]
        made = _dataset("training-set", event.feature_set, event.training_set_digest, rows=event.rows)
        made["facets"] |= self._assembled.get(event.feature_set_version, {})
        return self._at_once(record, f"training-set/{event.feature_set}", "BATCH", read, [made])

    def _run_started(self, record: EventRecord, event: RunStarted) -> list[Event]:
        self._model_of_run[event.run_id] = event.model
        digest = event.training_set_digest
        read = [_dataset("training-set", self._feature_set_of.get(digest, event.model), digest)] if digest else []
        self._inputs_of_run[event.run_id] = read
        parameters = MessageToDict(event.parameters, preserving_proto_field_name=True)
        listed = [{"key": name, "value": str(value)} for name, value in sorted(parameters.items())]
        facets = {"executionParameters": facet("ExecutionParametersRunFacet", "1-0-0", parameters=listed)}
        return [self._event("START", record, event.run_id, f"train/{event.model}", "BATCH", read, [], facets)]

    def _run_completed(self, record: EventRecord, event: RunCompleted) -> list[Event]:
        model = self._model_of_run.get(event.run_id, "")
        self._model_of_bundle[event.bundle_digest] = model
        return [self._run_ended("COMPLETE", record, event.run_id, [_model(model, event.bundle_digest)], {})]

    def _run_failed(self, record: EventRecord, event: RunFailed) -> list[Event]:
        error = facet("ErrorMessageRunFacet", "1-0-1", message=event.failure, programmingLanguage="python")
        return [self._run_ended("FAIL", record, event.run_id, [], {"errorMessage": error})]

    def _run_ended(self, kind: str, record: EventRecord, run: str, made: list[Event], facets: Event) -> Event:
        job = f"train/{self._model_of_run.get(run, '')}"
        return self._event(kind, record, run, job, "BATCH", self._inputs_of_run.pop(run, []), made, facets)

    def _imported(self, record: EventRecord, event: ModelImported) -> list[Event]:
        self._model_of_bundle[event.bundle_digest] = event.model
        made = [_model(event.model, event.bundle_digest)]
        return self._at_once(record, f"import/{event.model}", "BATCH", [], made, run=event.run_id)

    def _registered(self, _record: EventRecord, event: BundleRegistered) -> list[Event]:
        self._model_of_bundle[event.bundle_digest] = event.model
        return []

    def _gates(self, record: EventRecord, event: GatesEvaluated) -> list[Event]:
        digests = [event.bundle_digest, *([event.champion_digest] if event.champion_digest else [])]
        tests = [
            {
                "name": result.gate,
                "status": "pass" if result.passed else "fail",
                "severity": "error",
                "description": result.finding,
            }
            for result in event.results
        ]
        job = f"gates/{self._model_of_bundle.get(event.bundle_digest, '')}"
        facets = {"test": facet("TestRunFacet", "1-0-1", tests=tests)}
        return self._at_once(record, job, "BATCH", [self._bundle(digest) for digest in digests], [], facets)

    def _segment(self, record: EventRecord, event: SegmentSealed) -> list[Event]:
        read = [self._bundle(digest) for digest in event.bundle_digests]
        made = _dataset("predictions", event.endpoint, event.segment_digest, rows=event.predictions)
        return self._at_once(record, f"predict/{event.endpoint}", "SERVICE", read, [made])

    def _saga_requested(self, record: EventRecord, event: SagaRequested) -> list[Event]:
        saga = event.saga
        self._endpoint_of_saga[saga.saga_id] = saga.endpoint
        kind = SagaKind.Name(saga.kind).removeprefix("SAGA_KIND_").lower()
        asked = [{"key": "kind", "value": kind}, {"key": "reason", "value": saga.reason}]
        facets = {"executionParameters": facet("ExecutionParametersRunFacet", "1-0-0", parameters=asked)}
        return [self._event("START", record, _saga_run(saga.saga_id), f"saga/{saga.endpoint}", "BATCH", [], [], facets)]

    def _saga_finished(self, record: EventRecord, event: SagaFinished) -> list[Event]:
        kind = "COMPLETE" if event.state == SagaState.SAGA_STATE_COMPLETED else "ABORT"
        return [self._event(kind, record, _saga_run(event.saga_id), f"saga/{event.endpoint}", "BATCH", [], [], {})]

    def _bundle(self, digest: str) -> Event:
        return _model(self._model_of_bundle.get(digest, ""), digest)

    def _at_once(
        self,
        record: EventRecord,
        job: str,
        processing: str,
        inputs: list[Event],
        outputs: list[Event],
        facets: Event | None = None,
        run: str = "",
    ) -> list[Event]:
        return [
            self._event(kind, record, run or record.event_id, job, processing, inputs, outputs, facets or {})
            for kind in ("START", "COMPLETE")
        ]

    def _event(
        self,
        kind: str,
        record: EventRecord,
        run: str,
        job: str,
        processing: str,
        inputs: list[Event],
        outputs: list[Event],
        facets: Event,
    ) -> Event:
        about = facet("JobTypeJobFacet", "2-0-4", processingType=processing, integration="LINEAL")
        return {
            "eventType": kind,
            "eventTime": record.event_time.ToJsonString(),
            "producer": PRODUCER,
            "schemaURL": _EVENT_SCHEMA,
            "run": {"runId": run, "facets": {**facets, **self._parent(record)}},
            "job": {"namespace": NAMESPACE, "name": job, "facets": {"jobType": about}},
            "inputs": inputs,
            "outputs": outputs,
        }

    def _parent(self, record: EventRecord) -> Event:
        kind, _, saga = record.actor.partition(":")
        if kind != "saga" or saga not in self._endpoint_of_saga:
            return {}
        above = {
            "run": {"runId": _saga_run(saga)},
            "job": {"namespace": NAMESPACE, "name": f"saga/{self._endpoint_of_saga[saga]}"},
        }
        return {"parent": facet("ParentRunFacet", "1-2-0", **above, root=above)}


def export(records: Iterable[EventRecord], after: int = 0) -> Iterable[Event]:
    """Yield the OpenLineage events of records after a position; `records` come from the beginning of the log."""
    exporting = OpenLineageExport()
    for record in records:
        events = exporting.see(record)
        if record.position > after:
            yield from events


def _dataset(kind: str, name: str, version: str = "", *, rows: int | None = None) -> Event:
    facets: Event = {}
    if version:
        facets["version"] = facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=version)
    found: Event = {"namespace": NAMESPACE, "name": f"{kind}/{name}", "facets": facets}
    if rows is not None:
        found["outputFacets"] = {"outputStatistics": statistics(rows)}
    return found


def _model(name: str, digest: str) -> Event:
    found = _dataset("model", name, digest)
    found["facets"]["datasetType"] = facet("DatasetTypeDatasetFacet", "1-0-1", datasetType="MODEL")
    return found


def _saga_run(saga: str) -> str:
    return str(uuid.uuid5(_SAGAS, saga))
