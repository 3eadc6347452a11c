"""What a scoring reads: checked against the bundle when it is asked for, and told to the process that scores."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.artifacts import ArtifactStore
from chassis.errors import FieldViolation, InvalidArgument, NotFound, RuleViolated
from chassis.events import EventLog
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.monitor.v1.events_pb2 import SegmentSealed
from lineal.api.serving.v1.scoring_pb2 import PastPredictions, ScoringPlan, SnapshotRows
from services.serving.parts import needed
from tabular.bundle import Bundle, ManifestInvalid
from tabular.schema import arrow_schema

_CUTOFF = "cutoff"
# How work is cut, by rows alone: the bytes of a result must not depend on where it is made.
_ROWS_PER_PART = 250_000
Spec = dict[str, Any]


class SourceUnfit(InvalidArgument):
    """The rows are not such as the bundle scores."""


class SourceUnknown(NotFound):
    """There is no such bundle, snapshot or endpoint."""


class NothingToScore(RuleViolated):
    """No past prediction is as asked for."""


class Sources:
    """Reads manifests and what the log says of segments."""

    def __init__(self, log: EventLog, artifacts: ArtifactStore) -> None:
        self._log = log
        self._artifacts = artifacts

    async def plan(self, bundle_digest: str, source: SnapshotRows | PastPredictions | None) -> ScoringPlan:
        """Return what is scored, as known now. Raises SourceUnknown, SourceUnfit, NothingToScore."""
        bundle = await asyncio.to_thread(self._bundle, bundle_digest)
        head = await self._log.head()
        plan = ScoringPlan(bundle_digest=bundle_digest, as_of_position=head)
        if source is None:
            what = FieldViolation("source", "give a snapshot or past predictions")
            raise SourceUnfit("nothing is named that could be scored", [what])
        start, end = _micros(source, "start_time"), _micros(source, "end_time")
        if start is not None and end is not None and start >= end:
            what = FieldViolation("source.end_time", "must be after start_time")
            raise SourceUnfit("the time range is empty", [what])
        if isinstance(source, SnapshotRows):
            plan.snapshot.CopyFrom(source)
            await self._check_snapshot(plan, bundle)
        else:
            plan.predictions.CopyFrom(source)
            plan.predictions.until_position = min(source.until_position, head) or head
            await self._check_predictions(plan.predictions, bundle)
        return plan

    async def read(self, plan: ScoringPlan, training_set_digest: str) -> Spec:
        """Return what of a plan the process that scores must know: its parts, and where they come from.

        Raises SourceUnfit for a training set that has not the features of the rows.
        """
        if plan.HasField("predictions"):
            return await self._read_predictions(plan.predictions)
        source = {"snapshot": plan.snapshot.snapshot_digest}
        digest = training_set_digest if plan.feature_set else plan.snapshot.snapshot_digest
        manifest = json.loads(await asyncio.to_thread(self._artifacts.read, digest))
        parts = list(_parts((file["digest"], file["rows"]) for file in manifest["files"]))
        if plan.feature_set:
            _check_training_set(plan, manifest, digest)
            source["training_set"] = digest
            return {"parts": parts, "source": source, "schema": "", "kept": [*manifest["row_key"], _CUTOFF]}
        declared: Dataset = ParseDict(manifest["declaration"], Dataset())
        kept = [name for name in (*declared.row_key, declared.event_time) if name]
        # Files from before a column was declared lack it, so they are read by the declaration.
        schema = arrow_schema(declared).serialize().to_pybytes().hex()
        return {"parts": parts, "source": source, "schema": schema, "kept": kept}

    async def _read_predictions(self, asked: PastPredictions) -> Spec:
        segments = await self._segments(asked)
        past = {"endpoint": asked.endpoint, "start": _micros(asked, "start_time"), "end": _micros(asked, "end_time")}
        return {
            "parts": list(_parts((segment.segment_digest, segment.predictions) for segment in segments)),
            "source": past | {"segments": [segment.segment_digest for segment in segments]},
            "past": past,
            "answering": _answering(segments),
        }

    async def _check_snapshot(self, plan: ScoringPlan, bundle: Bundle) -> None:
        asked = plan.snapshot
        declared = await asyncio.to_thread(self._declared, asked)
        if bundle.feature_set:
            spine = (await self._feature_set(bundle)).feature_set.spine.dataset
            if spine != asked.dataset:
                what = FieldViolation("snapshot.dataset", f"give {spine!r}, or a bundle that scores {asked.dataset!r}")
                raise SourceUnfit(f"the bundle scores rows of dataset {spine!r}, not of {asked.dataset!r}", [what])
        timed = bundle.feature_set and declared.event_time
        if not timed and (asked.HasField("start_time") or asked.HasField("end_time")):
            why = f"rows of {asked.dataset!r} have no time" if bundle.feature_set else "the bundle has no feature set"
            what = FieldViolation("snapshot.start_time", "leave both times unset")
            raise SourceUnfit(f"{why}, so there are no cut-offs that a time range could be of", [what])
        if bundle.feature_set:
            plan.feature_set, plan.feature_set_version = bundle.feature_set, bundle.feature_set_version
            return
        lacking = _lacking(bundle, [field.name for field in declared.fields])
        if lacking:
            what = FieldViolation("snapshot.dataset", f"give a dataset with {', '.join(lacking)}")
            raise SourceUnfit(f"rows of {asked.dataset!r} lack columns of the bundle: {', '.join(lacking)}", [what])

    async def _check_predictions(self, asked: PastPredictions, bundle: Bundle) -> None:
        if not await self._log.read_stream(f"endpoint/{asked.endpoint}"):
            raise SourceUnknown(f"endpoint {asked.endpoint!r} is unknown; `lineal catalog` lists those that there are")
        segments = await self._segments(asked)
        if not segments:
            raise NothingToScore(f"endpoint {asked.endpoint!r} has no sealed segment with predictions of that time")
        for digest in _answering(segments):
            answered = await asyncio.to_thread(self._bundle, digest)
            if (answered.problem, answered.classes) != (bundle.problem, bundle.classes):
                what = FieldViolation("bundle_digest", "give a bundle of the same problem and classes")
                raise SourceUnfit(f"bundle {digest[:12]}, which answered, solves another problem", [what])
            columns = [column.name for column in answered.columns]
            lacking = _lacking(bundle, columns, [column.name for column in answered.inputs])
            if lacking:
                what = FieldViolation("bundle_digest", "give a bundle whose columns were recorded")
                said = f"predictions of bundle {digest[:12]} have no values recorded of {', '.join(lacking)}"
                raise SourceUnfit(said, [what])

    async def _segments(self, asked: PastPredictions) -> list[SegmentSealed]:
        start, end = _micros(asked, "start_time"), _micros(asked, "end_time")
        events = await self._log.read_stream(f"monitor/{asked.endpoint}")
        return [
            event.message
            for event in events
            if isinstance(event.message, SegmentSealed)
            and event.position <= asked.until_position
            and (start is None or event.message.max_event_time.ToMicroseconds() >= start)
            and (end is None or event.message.min_event_time.ToMicroseconds() < end)
        ]

    async def _feature_set(self, bundle: Bundle) -> FeatureSetRegistered:
        for event in await self._log.read_stream(f"feature-set/{bundle.feature_set}"):
            if isinstance(event.message, FeatureSetRegistered) and event.message.version == bundle.feature_set_version:
                return event.message
        raise SourceUnknown(f"feature set {bundle.feature_set!r} of the bundle is not in the log")

    def _bundle(self, digest: str) -> Bundle:
        try:
            return Bundle.from_bytes(self._artifacts.read(digest))
        except (NotFound, InvalidArgument):
            raise SourceUnknown(f"there is no bundle {digest[:80]!r}; `lineal bundles` lists them") from None
        except ManifestInvalid as error:
            what = FieldViolation("bundle_digest", "give the digest of a bundle")
            raise SourceUnfit(f"artifact {digest[:12]} is {error}", [what]) from error

    def _declared(self, asked: SnapshotRows) -> Dataset:
        """Return the dataset as a snapshot declares it."""
        found: Any = None
        with suppress(NotFound, InvalidArgument, ValueError):
            found = json.loads(self._artifacts.read(asked.snapshot_digest))
        if not isinstance(found, dict) or found.get("kind") != "lineal.snapshot":
            named = f"{asked.snapshot_digest[:80]!r} of dataset {asked.dataset!r}"
            raise SourceUnknown(f"there is no snapshot {named}; CreateSnapshot of ingest takes one")
        if found["dataset"] != asked.dataset:
            what = FieldViolation("snapshot.dataset", f"give {found['dataset']!r}")
            raise SourceUnfit(f"{asked.snapshot_digest[:12]} is a snapshot of {found['dataset']!r}", [what])
        declared: Dataset = ParseDict(found["declaration"], Dataset())
        return declared


def _parts(files: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Yield the digests of files, or segments, that are scored together."""
    part: list[str] = []
    held = 0
    for digest, rows in files:
        if part and held + rows > _ROWS_PER_PART:
            yield part
            part, held = [], 0
        part.append(digest)
        held += rows
    if part:
        yield part


def _check_training_set(plan: ScoringPlan, manifest: Mapping[str, Any], digest: str) -> None:
    given = manifest.get("feature_set"), manifest.get("feature_set_version"), manifest.get("unlabelled")
    if given != (plan.feature_set, plan.feature_set_version, True):
        what = FieldViolation("training_set_digest", "have it built without labels, of the bundle's feature set")
        raise SourceUnfit(f"{digest[:12]} does not hold the features of the scoring's rows", [what])


def _lacking(bundle: Bundle, columns: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """Return what a bundle scores from that is not among columns, nor among others that transforms may take."""
    return [name for name in needed(bundle, columns) if name not in columns and name not in others]


def _answering(segments: Sequence[SegmentSealed]) -> list[str]:
    return sorted({digest for segment in segments for digest in segment.bundle_digests})


def _micros(message: SnapshotRows | PastPredictions, name: str) -> int | None:
    if not message.HasField(name):  # type: ignore[arg-type]
        return None
    time: Timestamp = getattr(message, name)
    return time.ToMicroseconds()
