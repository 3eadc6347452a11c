"""What the trainer does: one method per use case."""

import asyncio
import json
import logging
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.context import deadline_in
from chassis.errors import FieldViolation, InvalidArgument, LinealError, NotFound, RuleViolated
from chassis.events import EventLog
from chassis.ids import check_request_id, request_id_from
from chassis.jobs import JobFailed, run_job
from chassis.past import AsOf
from chassis.projection import ProjectionRunner
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_set_pb2 import ColumnSource, ColumnType, FeatureColumn
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from lineal.api.trainer.v1.events_pb2 import EvaluationRecorded, RunCompleted
from lineal.api.trainer.v1.run_pb2 import Evaluation, Metric, Parameters, Run, RunState
from lineal.api.trainer.v1.trainer_service_pb2 import ImportModelHeader, WatchRunResponse
from lineal.profile import Profile
from services.trainer import projections
from services.trainer import run as runs
from tabular.bundle import CARD_FILE, Bundle, ManifestInvalid
from tabular.schema import protected

_logger = logging.getLogger(__name__)
_JOB = "services.trainer.job"
_LARGEST_MODEL = 512 * 1024 * 1024
# By the rule of the label; the other rules make 0 and 1.
_PROBLEMS = {"value": "regression", "classes": "multiclass"}


class TrainingSetUnknown(NotFound):
    """No training set of that digest was built."""


class FeatureSetUnknown(NotFound):
    """The feature set of a training set is not in the log."""


class TrainingSetUnlabelled(RuleViolated):
    """A training set was built to be scored, not to be learnt from."""


class RunUnknown(NotFound):
    """There is no run of that id."""


class ModelFileInvalid(InvalidArgument):
    """A file is no CatBoost model that can be served."""


class EvaluationRefused(InvalidArgument):
    """An evaluation cannot be made so."""


class NotABundle(RuleViolated):
    """An artifact is not the manifest of a bundle."""


@dataclass
class _Progress:
    """What a job last reported."""

    stage: str = "waiting"
    done: int = 0
    steps: int = 0


class Trainer:
    """The application of the trainer."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        tables: ProjectionRunner,
        *,
        artifacts_url: str,
        folder: Path,
        concurrent_jobs: int,
        profile: Profile,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._tables = tables
        self._runs = Repository(log, "run", runs.decider)
        self._folder = folder
        self._profile = profile
        self._store = {"artifacts": artifacts_url, "artifact_cache": str(folder / "artifact-cache")}
        self._slots = asyncio.Semaphore(concurrent_jobs)
        self._progress: dict[str, _Progress] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Condition()
        # asyncio keeps no reference to a task of its own.
        self._wakers: set[asyncio.Future[None]] = set()

    async def start_run(
        self, *, request_id: str, model: str, training_set_digest: str, parameters: Parameters
    ) -> tuple[str, int]:
        """Start a run; return its id and the log position. Raises TrainingSetUnknown, ParametersInvalid."""
        await self._training_set(training_set_digest)
        # The command's id is the run's, so that a repeated command names the same run.
        run_id = check_request_id(request_id)
        outcome = await self._runs.execute(
            run_id,
            request_id=request_id,
            decide=lambda state: runs.start(
                state,
                run_id=run_id,
                model=model,
                training_set_digest=training_set_digest,
                parameters=parameters,
            ),
        )
        if outcome.state.state == RunState.RUN_STATE_RUNNING:
            started = Run(run_id=run_id, model=model, training_set_digest=training_set_digest)
            started.parameters.CopyFrom(runs.with_defaults(parameters))
            self._launch(started)
        return run_id, outcome.position

    async def watch_run(self, run_id: str) -> AsyncIterator[WatchRunResponse]:
        """Yield a run whenever its progress changes, until it has ended. Raises RunUnknown."""
        await self.run(run_id)
        last = None
        while True:
            progress = self._progress.get(run_id, _Progress())
            seen = (progress.stage, progress.done)
            found = await self.run(run_id)
            if seen != last or found.state != RunState.RUN_STATE_RUNNING:
                last = seen
                yield WatchRunResponse(run=found, stage=progress.stage, steps_done=progress.done, steps=progress.steps)
            if found.state != RunState.RUN_STATE_RUNNING:
                return
            async with self._changed:
                await self._changed.wait_for(lambda seen=seen: self._moved(run_id, seen))  # type: ignore[misc]
            job = self._jobs.get(run_id)
            if job is not None and job.done():
                await self._tables.wait_for(await self._log.head())

    async def run(self, run_id: str) -> Run:
        """Return a run. Raises RunUnknown."""
        loaded = await self._runs.load(run_id)
        found = await self._tables.query(lambda connection: projections.run(connection, run_id), loaded.position)
        if found is None:
            raise RunUnknown(f"there is no run {run_id!r}; `lineal runs` lists them")
        return found

    async def runs_page(self, model: str, size: int, token: str, as_of: AsOf | None) -> tuple[list[Run], str]:
        """Return a page of runs, newest first, and the token of the next."""
        return await self._tables.query(
            lambda connection: projections.runs_of(connection, model, size, token), as_of=as_of
        )

    async def take_up(self) -> None:
        """Start the jobs of runs that a crash interrupted."""
        await self._tables.wait_for(await self._log.head())
        for run in await self._tables.query(projections.running):
            _logger.info("taking up run %s again", run.run_id)
            self._launch(run)
        # The jobs go on until the service stops; then they are cancelled with this task.
        try:
            await asyncio.Event().wait()
        finally:
            for job in self._jobs.values():
                job.cancel()
            await asyncio.gather(*self._jobs.values(), return_exceptions=True)

    async def evaluate(
        self,
        *,
        request_id: str,
        training_set_digest: str,
        bundle_digests: list[str],
        start_micros: int | None,
        end_micros: int | None,
    ) -> tuple[Evaluation, str, int]:
        """Score bundles on the same rows; return the evidence, its digest and the log position.

        Raises EvaluationRefused, TrainingSetUnknown, NotABundle.
        """
        if not bundle_digests:
            raise EvaluationRefused(
                "no bundle is given", [FieldViolation("bundle_digests", "give the candidate at least")]
            )
        await self._training_set(training_set_digest)
        candidate = self.bundle(bundle_digests[0])
        if start_micros is None and candidate.training_set_digest == training_set_digest:
            start_micros = candidate.test_start_micros
        spec = {
            "kind": "evaluate",
            "training_set_digest": training_set_digest,
            "bundle_digests": bundle_digests,
            "start_micros": start_micros,
            "end_micros": end_micros,
            **self._store,
        }
        try:
            async with self._slots:
                digest = (await run_job(_JOB, spec, lambda *_: None))["evaluation_digest"]
        except JobFailed as error:
            raise EvaluationRefused(
                error.message, [FieldViolation("training_set_digest", "its rows must have the bundles' columns")]
            ) from error
        event = EvaluationRecorded(
            evaluation_digest=digest, training_set_digest=training_set_digest, bundle_digests=bundle_digests
        )
        result = await self._log.append(f"evaluation/{digest}", [event], request_id=request_id, expected_revision=None)
        return Evaluation.FromString(self._artifacts.read(digest)), digest, result.position

    async def import_model(self, header: ImportModelHeader, chunks: AsyncIterable[bytes]) -> tuple[str, int]:
        """Make a bundle of an uploaded model file; return its digest and the log position. Raises ModelFileInvalid."""
        run_id = check_request_id(header.request_id)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="import-") as file:
            size = 0
            async for chunk in chunks:
                size += len(chunk)
                if size > _LARGEST_MODEL:
                    raise ModelFileInvalid(f"the file is larger than {_LARGEST_MODEL >> 20} MiB")
                await asyncio.to_thread(file.write, chunk)
            file.flush()
            spec = {
                "kind": "import",
                "path": file.name,
                "model": header.model,
                "run_id": run_id,
                "threshold": header.threshold if header.HasField("threshold") else 0.5,
                "description": header.description,
                **self._store,
            }
            try:
                async with self._slots:
                    digest = (await run_job(_JOB, spec, lambda *_: None))["bundle_digest"]
            except LinealError as error:
                # A damaged file may also crash the process that reads it.
                raise ModelFileInvalid(
                    f"the file is not a CatBoost model that can be served: {error.message}",
                    [FieldViolation("chunk", "send the bytes of a .cbm file that CatBoost's save_model wrote")],
                ) from error
        outcome = await self._runs.execute(
            run_id,
            request_id=header.request_id,
            decide=lambda state: runs.imported(state, run_id=run_id, model=header.model, bundle_digest=digest),
        )
        return digest, outcome.position

    def card(self, digest: str) -> str:
        """Return the card of a bundle. Raises NotABundle, ArtifactNotFound."""
        return self._artifacts.read(self.bundle(digest).files[CARD_FILE]).decode()

    def bundle(self, digest: str) -> Bundle:
        """Return a manifest. Raises NotABundle, ArtifactNotFound."""
        try:
            return Bundle.from_bytes(self._artifacts.read(digest))
        except ManifestInvalid as error:
            raise NotABundle(f"artifact {digest[:12]} is {error}") from error

    def _launch(self, run: Run) -> None:
        if run.run_id not in self._jobs:
            self._progress[run.run_id] = _Progress()
            # A job outlives the call that asked for it.
            with deadline_in(None):
                job = self._jobs[run.run_id] = asyncio.create_task(self._work(run))
            job.add_done_callback(lambda _: self._wake())

    async def _work(self, run: Run) -> None:
        request_id = request_id_from(run.run_id, "end")
        try:
            async with self._slots:
                spec = await self._spec(run)
                result = await run_job(_JOB, spec, lambda *report: self._report(run.run_id, *report))
            completed = RunCompleted(
                run_id=run.run_id,
                bundle_digest=result["bundle_digest"],
                metrics=[Metric(**metric) for metric in result["metrics"]],
                trees=result["trees"],
                cpu_seconds=result["cpu_seconds"],
                trials_digest=result["trials_digest"],
            )
            await self._runs.execute(
                run.run_id, request_id=request_id, decide=lambda state: runs.complete(state, completed)
            )
        except LinealError as error:
            failure = error.message
            _logger.error("run %s failed: %s", run.run_id, failure)
            await self._runs.execute(
                run.run_id,
                request_id=request_id,
                decide=lambda state: runs.fail(state, run_id=run.run_id, failure=failure),
            )

    async def _spec(self, run: Run) -> Mapping[str, Any]:
        built = await self._training_set(run.training_set_digest)
        features = await self._feature_set(built)
        label = features.feature_set.label
        return {
            "kind": "train",
            "model": run.model,
            "run_id": run.run_id,
            "training_set_digest": run.training_set_digest,
            "problem": _PROBLEMS.get(label.WhichOneof("rule") or "", "binary"),
            "classes": list(label.classes.values),
            "columns": [
                {**_column(column), "inputs": [_column(each) for each in column.inputs]} for column in features.columns
            ],
            "transforms": [
                MessageToDict(transform, preserving_proto_field_name=True)
                for transform in features.feature_set.transforms
            ],
            "feature_set": built.feature_set,
            "feature_set_version": built.feature_set_version,
            "entity_columns": list(features.entity_columns),
            "label_key": list(label.key),
            "description": features.feature_set.description,
            "vault": await asyncio.to_thread(self._vault, features.feature_set.spine.dataset, built),
            "parameters": MessageToDict(run.parameters, preserving_proto_field_name=True),
            **self._store,
        }

    async def _training_set(self, digest: str) -> TrainingSetBuilt:
        for event in await self._log.read_stream(f"training-set/{digest}"):
            if isinstance(event.message, TrainingSetBuilt):
                if event.message.unlabelled:
                    raise TrainingSetUnlabelled(f"training set {digest[:12]} has no labels; build one with them")
                return event.message
        raise TrainingSetUnknown(f"training set {digest[:12]!r} was never built; BuildTrainingSet builds one")

    def _vault(self, spine: str, built: TrainingSetBuilt) -> Mapping[str, Any] | None:
        """Return where protected attributes of the spine's rows are read, None where it has none."""
        digest = built.snapshots.get(spine)
        if not digest:
            return None
        snapshot = json.loads(self._artifacts.read(digest))
        if not protected(ParseDict(snapshot["declaration"], Dataset())):
            return None
        return {
            "address": self._profile.address("ingest"),
            "dataset": spine,
            "as_of_position": snapshot["as_of_position"],
        }

    async def _feature_set(self, built: TrainingSetBuilt) -> FeatureSetRegistered:
        for event in await self._log.read_stream(f"feature-set/{built.feature_set}"):
            if isinstance(event.message, FeatureSetRegistered) and event.message.version == built.feature_set_version:
                return event.message
        raise FeatureSetUnknown(f"feature set {built.feature_set!r} has no version {built.feature_set_version[:12]}")

    def _report(self, run_id: str, stage: str, done: int, steps: int) -> None:
        self._progress[run_id] = _Progress(stage, done, steps)
        self._wake()

    def _wake(self) -> None:
        task = asyncio.ensure_future(self._notify())
        self._wakers.add(task)
        task.add_done_callback(self._wakers.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _moved(self, run_id: str, seen: tuple[str, int]) -> bool:
        progress = self._progress.get(run_id, _Progress())
        job = self._jobs.get(run_id)
        return (progress.stage, progress.done) != seen or job is None or job.done()


def _column(column: FeatureColumn) -> dict[str, str]:
    """Return a column as the manifest of a bundle has it."""
    return {
        "name": column.name,
        "type": ColumnType.Name(column.type).removeprefix("COLUMN_TYPE_").lower(),
        "source": ColumnSource.Name(column.source).removeprefix("COLUMN_SOURCE_").lower(),
    }
