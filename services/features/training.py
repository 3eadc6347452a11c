"""From a request for a training set to its manifest."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.artifacts import ArtifactStore, canonical_json
from chassis.errors import FieldViolation, InvalidArgument, RuleViolated
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_set_pb2 import ColumnSource, ColumnType
from services.features.assembly import Range
from services.features.steps import Built, Plan, Source
from tabular.schema import did_you_mean

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SnapshotMissing(InvalidArgument):
    """No snapshot was given of a dataset that the feature set reads."""


class SnapshotInvalid(RuleViolated):
    """A digest is not that of a snapshot of the dataset."""


def plan(
    artifacts: ArtifactStore,
    registered: FeatureSetRegistered,
    views: Mapping[str, FeatureViewRegistered],
    wanted: TrainingSetBuilt,
) -> Plan:
    """Read the snapshots' manifests and say what is to be done. Raises SnapshotMissing, SnapshotInvalid."""
    return Plan(
        feature_set=registered.SerializeToString(deterministic=True),
        views={name: view.feature_view.SerializeToString(deterministic=True) for name, view in views.items()},
        sources={name: _source(artifacts, name, wanted.snapshots[name]) for name in wanted.snapshots},
        span=Range(
            start=_micros(wanted, "start_time"),
            end=_micros(wanted, "end_time"),
            label_known=_micros(wanted, "label_known_time"),
            share=wanted.sample_share if wanted.HasField("sample_share") else 1.0,
            labelled=not wanted.unlabelled,
        ),
    )


def snapshots_needed(
    registered: FeatureSetRegistered, views: Mapping[str, FeatureViewRegistered], wanted: TrainingSetBuilt
) -> dict[str, str]:
    """Pick from the snapshots given those that the feature set reads. Raises SnapshotMissing."""
    feature_set, given = registered.feature_set, wanted.snapshots
    needed = {feature_set.spine.dataset, *(view.feature_view.dataset for view in views.values())}
    if not wanted.unlabelled:
        needed.add(feature_set.label.dataset)
    missing = [
        FieldViolation("snapshots", f"give the digest of a snapshot of dataset {name!r}{did_you_mean(name, given)}")
        for name in sorted(needed - set(given))
    ]
    if missing:
        raise SnapshotMissing(f"feature set {feature_set.name!r} reads datasets without a snapshot here", missing)
    return {name: given[name] for name in sorted(needed)}


def manifest(registered: FeatureSetRegistered, row_key: list[str], wanted: TrainingSetBuilt, built: Built) -> bytes:
    """Return the canonical JSON that a training set's digest is taken from."""
    # Named only where they say something, so that manifests from before keep their digests.
    told: dict[str, float] = {"sample_share": wanted.sample_share} if wanted.HasField("sample_share") else {}
    if wanted.unlabelled:
        told["unlabelled"] = True
    return canonical_json(
        told
        | {
            "kind": "lineal.training-set",
            "feature_set": wanted.feature_set,
            "feature_set_version": wanted.feature_set_version,
            "columns": [
                {
                    "name": column.name,
                    "type": ColumnType.Name(column.type).removeprefix("COLUMN_TYPE_").lower(),
                    "source": ColumnSource.Name(column.source).removeprefix("COLUMN_SOURCE_").lower(),
                }
                for column in registered.columns
            ],
            "row_key": row_key,
            "entity_columns": list(registered.entity_columns),
            "start_time": _text(wanted, "start_time"),
            "end_time": _text(wanted, "end_time"),
            "label_known_time": _text(wanted, "label_known_time"),
            "snapshots": dict(wanted.snapshots),
            "files": [{"digest": digest, "rows": rows} for digest, rows in built.files],
            "rows": sum(rows for _, rows in built.files),
            "label_mean": built.label_mean,
        }
    )


def _source(artifacts: ArtifactStore, dataset: str, digest: str) -> Source:
    try:
        found: Any = json.loads(artifacts.read(digest))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != "lineal.snapshot" or found.get("dataset") != dataset:
        raise SnapshotInvalid(f"{digest} is not a snapshot of dataset {dataset!r}; CreateSnapshot of ingest makes one")
    return Source(found["declaration"], [(file["digest"], file["rows"]) for file in found["files"]])


def _micros(wanted: TrainingSetBuilt, name: str) -> int | None:
    if not wanted.HasField(name):  # type: ignore[arg-type]
        return None
    time: Timestamp = getattr(wanted, name)
    return time.ToMicroseconds()


def _text(wanted: TrainingSetBuilt, name: str) -> str | None:
    micros = _micros(wanted, name)
    return None if micros is None else (_EPOCH + timedelta(microseconds=micros)).isoformat()
