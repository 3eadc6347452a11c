"""What is exported is what OpenLineage's own client takes: its generated classes, facet by facet."""

import uuid
from typing import Any

import attr
import pytest
from google.protobuf.message import Message
from openlineage.client.generated import (
    base,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    dataset_type_dataset,
    dataset_version_dataset,
    error_message_run,
    execution_parameters_run,
    job_type_job,
    output_statistics_output_dataset,
    ownership_dataset,
    parent_run,
    schema_dataset,
    test_run,
)
from openlineage.client.serde import Serde

from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_set_pb2 import (
    ColumnSource,
    ColumnType,
    FeatureColumn,
    FeatureSet,
    Label,
    RequestFeature,
    Spine,
    ViewFeatures,
)
from lineal.api.features.v1.feature_view_pb2 import Aggregate, AggregateFunction, Feature, FeatureView, Latest
from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, DatasetRegistered, SnapshotCreated
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.monitor.v1.events_pb2 import PeriodClosed, SegmentSealed
from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaKind, SagaState
from lineal.api.registry.v1.events_pb2 import BundleRegistered, GatesEvaluated, SagaFinished, SagaRequested
from lineal.api.registry.v1.model_pb2 import GateResult
from lineal.api.trainer.v1.events_pb2 import ModelImported, RunCompleted, RunFailed, RunStarted
from lineal.api.trainer.v1.run_pb2 import Parameters
from lineal.openlineage import SEEN, export

RUN, FAILED, IMPORTED = (str(uuid.UUID(int=n)) for n in (1, 2, 3))
RETRAIN = Saga(saga_id="retrain-delays-1", endpoint="delays", kind=SagaKind.SAGA_KIND_RETRAIN, reason="drift")
NUMBER = FieldType.FIELD_TYPE_FLOAT64
FLIGHTS = Dataset(
    name="flights",
    owner="data",
    fields=[
        Field(name="carrier", type=FieldType.FIELD_TYPE_STRING),
        Field(name="delay", type=NUMBER, description="In minutes."),
        Field(name="distance", type=NUMBER),
    ],
)
CARRIERS = FeatureView(
    name="carrier",
    dataset="flights",
    entity_keys=["carrier"],
    features=[
        Feature(name="last", latest=Latest(column="delay")),
        Feature(name="count", aggregate=Aggregate(function=AggregateFunction.AGGREGATE_FUNCTION_COUNT)),
        Feature(name="unused", latest=Latest(column="distance")),
    ],
)
DELAY = FeatureSetRegistered(
    feature_set=FeatureSet(
        name="delay",
        spine=Spine(dataset="flights"),
        request_features=[RequestFeature(column="distance")],
        view_features=[ViewFeatures(view="carrier", features=["count", "last"], prefix="by_carrier_")],
        label=Label(dataset="flights", column="delay"),
    ),
    version="v1",
    columns=[
        FeatureColumn(name="distance", type=ColumnType.COLUMN_TYPE_NUMERIC),
        FeatureColumn(name="by_carrier_count", source=ColumnSource.COLUMN_SOURCE_VIEW),
        FeatureColumn(name="by_carrier_last", source=ColumnSource.COLUMN_SOURCE_VIEW),
    ],
)
STORY: list[tuple[str, Message]] = [
    ("person:ada", DatasetRegistered(dataset=FLIGHTS)),
    ("person:ada", FeatureViewRegistered(feature_view=CARRIERS)),
    ("person:ada", DELAY),
    ("person:ada", BatchAccepted(dataset="flights", batch_id="1", accepted_rows=10)),
    ("person:ada", BatchAccepted(dataset="flights", batch_id="2", quarantined_rows=3)),
    ("service:monitor", SagaRequested(saga=RETRAIN)),
    ("saga:retrain-delays-1", SnapshotCreated(dataset="flights", snapshot_digest="s1", as_of_position=2, rows=10)),
    (
        "saga:retrain-delays-1",
        TrainingSetBuilt(
            training_set_digest="t1",
            feature_set="delay",
            feature_set_version="v1",
            snapshots={"flights": "s1"},
            rows=9,
        ),
    ),
    (
        "saga:retrain-delays-1",
        RunStarted(run_id=RUN, model="delay", training_set_digest="t1", parameters=Parameters(depth=6, trials=3)),
    ),
    ("saga:retrain-delays-1", RunStarted(run_id=FAILED, model="delay", training_set_digest="t1")),
    ("service:trainer", RunFailed(run_id=FAILED, failure="one class only")),
    ("service:trainer", RunCompleted(run_id=RUN, bundle_digest="b1")),
    ("saga:retrain-delays-1", BundleRegistered(bundle_digest="b1", model="delay", run_id=RUN)),
    ("person:ada", ModelImported(run_id=IMPORTED, model="delay", bundle_digest="b2")),
    (
        "saga:retrain-delays-1",
        GatesEvaluated(
            bundle_digest="b1",
            champion_digest="b2",
            results=[GateResult(gate="auc", passed=True, finding="0.7 ≥ 0.6"), GateResult(gate="brier")],
        ),
    ),
    ("service:monitor", SegmentSealed(endpoint="delays", segment_digest="p1", predictions=7, bundle_digests=["b1"])),
    ("service:monitor", PeriodClosed()),
    (
        "saga:retrain-delays-1",
        SagaFinished(endpoint="delays", saga_id=RETRAIN.saga_id, state=SagaState.SAGA_STATE_COMPENSATED),
    ),
]
FACETS: dict[str, Any] = {
    "version": dataset_version_dataset.DatasetVersionDatasetFacet,
    "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet,
    "schema": schema_dataset.SchemaDatasetFacet,
    "ownership": ownership_dataset.OwnershipDatasetFacet,
    "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet,
    "dataQualityAssertions": data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "jobType": job_type_job.JobTypeJobFacet,
    "executionParameters": execution_parameters_run.ExecutionParametersRunFacet,
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "parent": parent_run.ParentRunFacet,
    "test": test_run.TestRunFacet,
}
NESTED: dict[tuple[Any, str], Any] = {
    (base.RunEvent, "run"): base.Run,
    (base.RunEvent, "job"): base.Job,
    (base.RunEvent, "inputs"): base.InputDataset,
    (base.RunEvent, "outputs"): base.OutputDataset,
    (base.RunEvent, "eventType"): base.EventType,
    (FACETS["executionParameters"], "parameters"): execution_parameters_run.ExecutionParameter,
    (FACETS["test"], "tests"): test_run.TestExecution,
    (FACETS["schema"], "fields"): schema_dataset.SchemaDatasetFacetFields,
    (FACETS["ownership"], "owners"): ownership_dataset.Owner,
    (FACETS["dataQualityAssertions"], "assertions"): data_quality_assertions_dataset.Assertion,
    (column_lineage_dataset.Fields, "inputFields"): column_lineage_dataset.InputField,
    (column_lineage_dataset.InputField, "transformations"): column_lineage_dataset.Transformation,
    (FACETS["parent"], "run"): parent_run.Run,
    (FACETS["parent"], "job"): parent_run.Job,
    (FACETS["parent"], "root"): parent_run.Root,
    (parent_run.Root, "run"): parent_run.RootRun,
    (parent_run.Root, "job"): parent_run.RootJob,
}


def records() -> list[EventRecord]:
    found = []
    for position, (actor, message) in enumerate(STORY, start=1):
        record = EventRecord(
            position=position,
            stream="story/1",
            event_id=str(uuid.UUID(int=1000 + position)),
            type=message.DESCRIPTOR.full_name,
            payload=message.SerializeToString(),
            actor=actor,
        )
        record.event_time.FromSeconds(1_800_000_000 + position)
        found.append(record)
    return found


def built(kind: Any, value: Any) -> Any:
    """Return an object of OpenLineage's client; it refuses what the specification does not have."""
    if kind is base.EventType:
        return base.EventType[value]
    if isinstance(value, list):
        return [built(kind, each) for each in value]
    taken = {
        field.alias: field.name
        for field in attr.fields(kind)
        if field.init and field.name not in ("_producer", "_schemaURL", "producer", "schemaURL")
    }
    given = {name: inner for name, inner in value.items() if name not in ("_producer", "_schemaURL", "schemaURL")}
    given.pop("producer", None)
    assert set(given) <= set(taken), (kind, given)
    made = {}
    for name, inner in given.items():
        if (kind, name) == (FACETS["columnLineage"], "fields"):
            made[name] = {column: built(column_lineage_dataset.Fields, origin) for column, origin in inner.items()}
        elif name.lower().endswith("facets"):
            made[name] = {key: built(FACETS[key], facet) for key, facet in inner.items()}
        elif (kind, name) in NESTED:
            made[name] = built(NESTED[kind, name], inner)
        else:
            made[name] = inner
    found = kind(**made)
    for name in ("_schemaURL", "schemaURL"):
        if name in value:
            assert value[name] == kind._get_schema()
    return found


def meant(value: Any) -> Any:
    """Return a value without what is empty and what names the producer."""
    if isinstance(value, dict):
        kept = {key: meant(inner) for key, inner in value.items() if key not in ("_producer", "producer")}
        return {key: inner for key, inner in kept.items() if inner not in (None, {}, [])}
    return [meant(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "event", list(export(records())), ids=lambda event: f"{event['job']['name']} {event['eventType']}"
)
def test_an_event_is_as_the_specification_has_it(event: dict[str, Any]) -> None:
    assert meant(Serde.to_dict(built(base.RunEvent, event))) == meant(event)


def test_each_run_starts_once_and_ends_once() -> None:
    seen: dict[str, list[str]] = {}
    for event in export(records()):
        seen.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert seen[RUN] == ["START", "COMPLETE"]
    assert seen[FAILED] == ["START", "FAIL"]
    assert all(len(kinds) == 2 and kinds[0] == "START" for kinds in seen.values())
    assert [kinds[1] for kinds in seen.values()].count("ABORT") == 1


def test_datasets_join_the_runs_into_one_graph() -> None:
    found = list(export(records()))

    def ends(job: str, kind: str, side: str) -> list[tuple[str, str]]:
        (event,) = [e for e in found if (e["job"]["name"], e["eventType"]) == (job, kind)][-1:]
        return [(d["name"], d["facets"].get("version", {}).get("datasetVersion", "")) for d in event[side]]

    assert ends("ingest/flights", "COMPLETE", "outputs") == []
    assert ends("snapshot/flights", "COMPLETE", "outputs") == [("dataset/flights", "s1")]
    assert ends("training-set/delay", "COMPLETE", "inputs") == [("dataset/flights", "s1")]
    assert ends("train/delay", "START", "inputs") == [("training-set/delay", "t1")]
    assert ends("train/delay", "COMPLETE", "outputs") == [("model/delay", "b1")]
    assert ends("gates/delay", "COMPLETE", "inputs") == [("model/delay", "b1"), ("model/delay", "b2")]
    assert ends("predict/delays", "COMPLETE", "inputs") == [("model/delay", "b1")]
    assert ends("predict/delays", "COMPLETE", "outputs") == [("predictions/delays", "p1")]


def test_runs_of_a_saga_name_it_as_their_parent() -> None:
    found = list(export(records()))
    (saga,) = {event["run"]["runId"] for event in found if event["job"]["name"] == "saga/delays"}
    parents = {
        event["job"]["name"]: event["run"]["facets"]["parent"]["run"]["runId"]
        for event in found
        if "parent" in event["run"]["facets"] and event["job"]["name"] != "saga/delays"
    }
    assert parents == dict.fromkeys(("snapshot/flights", "training-set/delay", "train/delay", "gates/delay"), saga)


def test_an_export_goes_on_after_a_position() -> None:
    whole = list(export(records()))
    assert list(export(records(), after=11)) == [e for e in whole if e["eventTime"] > "2027-01-15T08:00:11Z"]


def test_every_event_that_is_asked_for_is_exported_or_remembered() -> None:
    told = {type(message) for _, message in STORY}
    assert set(SEEN) <= told


def test_a_training_set_says_where_each_column_comes_from() -> None:
    (made,) = next(e for e in export(records()) if e["job"]["name"] == "training-set/delay")["outputs"]
    origins = {
        column: [(field["name"], field["field"], field["transformations"][0]["subtype"]) for field in of["inputFields"]]
        for column, of in made["facets"]["columnLineage"]["fields"].items()
    }
    assert origins == {
        "distance": [("dataset/flights", "distance", "IDENTITY")],
        "by_carrier_last": [("dataset/flights", "delay", "TRANSFORMATION")],
        "by_carrier_count": [("dataset/flights", "carrier", "AGGREGATION")],
        "label": [("dataset/flights", "delay", "TRANSFORMATION")],
    }


def test_a_batch_says_what_validation_found() -> None:
    batches = [e for e in export(records()) if e["job"]["name"] == "ingest/flights" and e["eventType"] == "COMPLETE"]
    found = [e["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"][0] for e in batches]
    assert [(each["success"], each["actual"]) for each in found] == [(True, "0 of 10"), (False, "3 of 3")]
