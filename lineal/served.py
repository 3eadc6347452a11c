"""The rows behind a prediction's looked-up features, in its proof: put together with services, checked without.

What the rows show: each was accepted, in a batch that the log had before the features were served, and speaks of the
prediction's entities. What they do not show: that no other row should have counted. That is seen where the features are
computed anew from them and come out as they were served (`python -m tools.recompute`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf.message import DecodeError, Message

from lineal import merkle
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, DatasetRegistered
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.calls import Services
from lineal.explain import explain
from lineal.merkle import ProofWrong
from lineal.notes import Checkpoint
from lineal.proof_file import ProofInvalid, bytes_of, logged, member, path_of, text_of
from lineal.rows import RowWrong, decode, hashed

# Of the widest rows that come in so many still fit a message.
_ROWS_AT_ONCE = 200
_DEFINITION, _BATCH, _ROW, _MANIFEST = "definition", "batch", "row", "manifest"
_KINDS: dict[str, type[Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (FeatureSetRegistered, FeatureViewRegistered, DatasetRegistered, BatchAccepted)
}


@dataclass(frozen=True)
class Behind:
    """What goes into a proof file: log positions of events, and rows as JSON values."""

    positions: list[int]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class ServedRow:
    """A proven row; `in_snapshot` says whether a snapshot of the training set holds its batch."""

    dataset: Dataset
    batch_id: str
    position: int
    row: int
    data: bytes
    values: dict[str, Any]
    in_snapshot: bool


@dataclass(frozen=True)
class Served:
    """The proven definitions of the features that were looked up, and the proven rows in log order."""

    feature_set: FeatureSetRegistered | None
    views: Mapping[str, FeatureView]
    rows: Sequence[ServedRow]


def collect(services: Services, found: monitor_api.GetPredictionProofResponse) -> Behind:
    """Return what proves the rows behind a prediction's features. Raises CallFailed."""
    record = PredictionRecord.FromString(found.record)
    if not record.feature_position:
        return Behind([], [])
    bundle = json.loads(found.manifests[0])
    views = explain(
        services,
        bundle["feature_set"],
        bundle["feature_set_version"],
        dict(record.entities),
        record.event_time_micros,
        record.feature_position,
    )
    positions = {view.feature_set_position for view in views} | {view.position for view in views}
    by_batch: dict[tuple[int, str, str], set[int]] = {}
    for view in views:
        for row in view.rows:
            by_batch.setdefault((row.batch_position, view.dataset, row.batch_id), set()).add(row.row)
    rows: list[dict[str, Any]] = []
    for (_, dataset, batch_id), numbers in sorted(by_batch.items()):
        ordered = sorted(numbers)
        for start in range(0, len(ordered), _ROWS_AT_ONCE):
            request = ingest_api.ProveRowsRequest(
                dataset=dataset, batch_id=batch_id, rows=ordered[start : start + _ROWS_AT_ONCE]
            )
            proven = services.ingest.call("ProveRows", request, timeout=60)
            positions |= {proven.position, proven.declaration_position}
            rows += [_written(proven.position, row) for row in proven.rows]
    return Behind(sorted(positions), rows)


def _written(position: int, row: ingest_api.ProvenRow) -> dict[str, Any]:
    path = [text_of(one) for one in row.path]
    return {"batch": position, "row": row.row, "data": text_of(row.data), "path": path}


def check(
    given: Any, checkpoint: Checkpoint, prediction: PredictionRecord, manifests: Sequence[Mapping[str, Any]]
) -> Served:
    """Return the rows that the part of a proof file shows. `manifests` begin with the bundle's. Raises ProofInvalid."""
    events = [logged(_object(one), checkpoint) for one in member(given, "events", list, "log")]
    rows = member(given, "rows", list, _ROW)
    if not prediction.feature_position:
        if events or rows:
            raise ProofInvalid(_DEFINITION, "there are rows, but nothing was looked up for the prediction")
        return Served(None, {}, [])
    declared = _Declared(events, manifests[0])
    found = [_row(row, declared, prediction, manifests) for row in rows]
    places = [(row.position, row.row) for row in found]
    if places != sorted(set(places)):
        raise ProofInvalid(_ROW, "rows are not in log order, each once")
    declared.all_used(found)
    return Served(declared.feature_set, declared.views, found)


class _Declared:
    """The events of a file by what they declare."""

    def __init__(self, events: Sequence[EventRecord], bundle: Mapping[str, Any]) -> None:
        self.batches: dict[int, BatchAccepted] = {}
        self._datasets: dict[tuple[str, int], Dataset] = {}
        sets: list[FeatureSetRegistered] = []
        views: dict[str, FeatureView] = {}
        for event in events:
            match _message(event):
                case BatchAccepted() as batch:
                    self.batches[event.position] = batch
                case DatasetRegistered() as dataset:
                    self._datasets[dataset.dataset.name, dataset.schema_version] = dataset.dataset
                case FeatureViewRegistered() as view:
                    views[view.version] = view.feature_view
                case FeatureSetRegistered() as feature_set:
                    sets.append(feature_set)
        wanted = bundle["feature_set"], bundle["feature_set_version"]
        if [(one.feature_set.name, one.version) for one in sets] != [wanted]:
            raise ProofInvalid(
                _DEFINITION, f"feature set {wanted[0]} {wanted[1][:12]} of the bundle is not the one here"
            )
        self.feature_set = sets[0]
        used = dict(self.feature_set.view_versions)
        if sorted(views) != sorted(set(used.values())):
            raise ProofInvalid(_DEFINITION, "the feature views are not those of the feature set")
        self.views = {name: views[version] for name, version in used.items()}

    def declaration(self, batch: BatchAccepted) -> Dataset:
        """Return the declaration that a batch was validated against."""
        try:
            return self._datasets[batch.dataset, batch.schema_version]
        except KeyError:
            what = f"schema version {batch.schema_version} of dataset {batch.dataset} is missing"
            raise ProofInvalid(_DEFINITION, what) from None

    def all_used(self, rows: Sequence[ServedRow]) -> None:
        """Refuse events that nothing leads to."""
        if set(self.batches) != {row.position for row in rows}:
            raise ProofInvalid(_BATCH, "there are batches without rows")
        if set(self._datasets) != {(batch.dataset, batch.schema_version) for batch in self.batches.values()}:
            raise ProofInvalid(_DEFINITION, "there are declarations of datasets without rows")


def _message(event: EventRecord) -> Message:
    kind = _KINDS.get(event.type)
    if kind is None:
        raise ProofInvalid(_DEFINITION, f"event {event.position} is a {event.type}")
    try:
        return kind.FromString(event.payload)
    except DecodeError as error:
        raise ProofInvalid(_DEFINITION, f"event {event.position}: {error}") from error


def _row(
    given: Any, declared: _Declared, prediction: PredictionRecord, manifests: Sequence[Mapping[str, Any]]
) -> ServedRow:
    position, number = member(given, "batch", int, _ROW), member(given, "row", int, _ROW)
    batch = declared.batches.get(position)
    if batch is None:
        raise ProofInvalid(_BATCH, f"the event of the batch at log position {position} is missing")
    named = f"{number} of batch {batch.batch_id} of {batch.dataset}"
    if position > prediction.feature_position:
        raise ProofInvalid(_ROW, f"{named} was accepted after the features were served")
    data = bytes_of(member(given, "data", str, _ROW), _ROW)
    try:
        root = bytes.fromhex(batch.rows_root)
        merkle.check_inclusion(merkle.leaf_hash(data), number, batch.accepted_rows, path_of(given, _ROW), root)
        dataset = hashed(declared.declaration(batch), batch.vaulted_columns)
        values = decode(dataset, data)
    except (ProofWrong, RowWrong) as error:
        raise ProofInvalid(_ROW, f"{named}: {error}") from error
    if not any(speaks_of(values, keys, prediction) for keys in _keys(declared, batch.dataset)):
        raise ProofInvalid(_ROW, f"{named} does not speak of the prediction's entities")
    return ServedRow(dataset, batch.batch_id, position, number, data, values, _in_snapshot(position, batch, manifests))


def _keys(declared: _Declared, dataset: str) -> Iterator[dict[str, str]]:
    """Yield, for each use of a view of a dataset, the spine's column by entity key."""
    for wanted in declared.feature_set.feature_set.view_features:
        view = declared.views.get(wanted.view)
        if view is not None and view.dataset == dataset:
            yield {key: wanted.keys.get(key, key) for key in view.entity_keys}


def speaks_of(values: Mapping[str, Any], keys: Mapping[str, str], prediction: PredictionRecord) -> bool:
    """Tell whether a row has a prediction's entities; `keys` are the spine's columns by entity key."""
    return all(_same_key(values.get(key), dict(prediction.entities).get(column, "")) for key, column in keys.items())


def _same_key(value: Any, text: str) -> bool:
    if isinstance(value, datetime):
        return text.removesuffix("+00:00").removesuffix("Z") == str(value.replace(tzinfo=None))
    if isinstance(value, int):
        return text.removesuffix(".0") == str(value)
    return value is not None and text == value


def _in_snapshot(position: int, batch: BatchAccepted, manifests: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a snapshot holds the batch. Raises ProofInvalid when it says other things of it than its event."""
    held = False
    for manifest in manifests:
        for file in manifest.get("files", ()) if manifest.get("dataset") == batch.dataset else ():
            if file["position"] != position:
                continue
            if (file["batch_id"], file["digest"], file["rows"], file.get("rows_root")) != (
                batch.batch_id,
                batch.accepted_digest,
                batch.accepted_rows,
                batch.rows_root,
            ):
                raise ProofInvalid(_MANIFEST, f"a snapshot says other things of batch {batch.batch_id} than its event")
            held = True
    return held


def _object(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ProofInvalid("log", "an event is no JSON object")
    return given
