"""Activities on ingest, features and trainer: from datasets to a bundle and its evaluation."""

import json

import grpc.aio
from google.protobuf import json_format
from temporalio import activity

from chassis.events import EventLog
from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.features.v1.features_service_pb2_grpc import FeaturesServiceStub
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.api.trainer.v1.run_pb2 import Parameters, Run, RunState
from lineal.api.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from workflows import messages as m
from workflows.activities import COMMAND_SECONDS, Heart, moment

# A call that a service works on for long gets so long; it heartbeats meanwhile and is repeated after that.
_WORK_SECONDS = 1800.0


class TrainingActivities:
    """Snapshots, training sets, runs, evaluations."""

    def __init__(
        self,
        log: EventLog,
        ingest: grpc.aio.Channel,
        features: grpc.aio.Channel,
        trainer: grpc.aio.Channel,
    ) -> None:
        self._log = log
        self._ingest = IngestServiceStub(ingest)
        self._features = FeaturesServiceStub(features)
        self._trainer = TrainerServiceStub(trainer)

    @activity.defn(name=m.READ_POSITION.name)
    async def read_position(self, origin: m.Origin) -> m.Position:
        """Return the position of the newest event."""
        del origin
        return m.Position(await self._log.head())

    @activity.defn(name=m.READ_FEATURE_SET.name)
    async def read_feature_set(self, named: m.Named) -> m.FeatureSetView:
        """Return a feature set, in its newest version or the one that is named, and the datasets it is built from."""
        request = features_api.GetFeatureSetRequest(name=named.name, version=named.version)
        found = await self._features.GetFeatureSet(request, timeout=COMMAND_SECONDS)
        return m.FeatureSetView(found.version, list(found.datasets), found.feature_set.spine.dataset)

    @activity.defn(name=m.TAKE_SNAPSHOT.name)
    async def take_snapshot(self, take: m.TakeSnapshot) -> m.SnapshotTaken:
        """Fix a dataset at a log position."""
        with Heart.beating() as heart:
            heart.say(f"snapshot of {take.dataset}")
            request = ingest_api.CreateSnapshotRequest(
                request_id=take.request_id, dataset=take.dataset, as_of_position=take.position
            )
            taken = await self._ingest.CreateSnapshot(request, timeout=_WORK_SECONDS)
            dataset = await self._ingest.GetDataset(
                ingest_api.GetDatasetRequest(name=take.dataset), timeout=COMMAND_SECONDS
            )
        column = json.loads(taken.snapshot.profile_json or "{}").get("columns", {}).get(dataset.dataset.event_time, {})
        return m.SnapshotTaken(
            taken.snapshot.digest, taken.snapshot.rows, taken.position, str(column.get("max", "") or "")
        )

    @activity.defn(name=m.BUILD_TRAINING_SET.name)
    async def build_training_set(self, build: m.BuildTrainingSet) -> m.TrainingSetBuilt:
        """Build a training set; the same one again is answered from the log."""
        request = features_api.BuildTrainingSetRequest(
            request_id=build.request_id,
            feature_set=build.feature_set,
            feature_set_version=build.version,
            start_time=moment(build.start_time),
            end_time=moment(build.end_time),
            label_known_time=moment(build.label_known_time),
            snapshots=build.snapshots,
            min_position=build.min_position,
            unlabelled=build.unlabelled,
        )
        built = features_api.TrainingSet()
        with Heart.beating() as heart:
            async for progress in self._features.BuildTrainingSet(request):
                heart.say(f"{progress.stage}: {progress.steps_done} of {progress.steps}")
                built = progress.training_set
        return m.TrainingSetBuilt(built.digest, built.rows)

    @activity.defn(name=m.START_RUN.name)
    async def start_run(self, start: m.StartRun) -> m.Named:
        """Start a run and return its id."""
        parameters = json_format.Parse(start.parameters_json, Parameters())
        parameters.exclude_columns.extend(
            column for column in start.exclude_columns if column not in parameters.exclude_columns
        )
        request = trainer_api.StartRunRequest(
            request_id=start.request_id,
            model=start.model,
            training_set_digest=start.training_set,
            parameters=parameters,
        )
        return m.Named(start.origin, (await self._trainer.StartRun(request, timeout=COMMAND_SECONDS)).run_id)

    @activity.defn(name=m.WATCH_RUN.name)
    async def watch_run(self, named: m.Named) -> m.RunEnded:
        """Return how a run ended, once it has."""
        run = Run()
        with Heart.beating() as heart:
            async for progress in self._trainer.WatchRun(trainer_api.WatchRunRequest(run_id=named.name)):
                run = progress.run
                heart.say(f"{progress.stage}: {progress.steps_done} of {progress.steps or 'an unknown number'}")
        if run.state == RunState.RUN_STATE_COMPLETED:
            # Those of groups have an attribute in braces; the card has them as tables.
            told = (f"{each.name} {each.value:.4f}" for each in run.metrics if "{" not in each.name)
            return m.RunEnded(run.bundle_digest, "", ", ".join(told))
        return m.RunEnded("", run.failure or "it ended without saying why", "")

    @activity.defn(name=m.EVALUATE_BUNDLES.name)
    async def evaluate_bundles(self, evaluate: m.Evaluate) -> m.Evaluated:
        """Score bundles on the candidate's untouched rows."""
        request = trainer_api.EvaluateBundlesRequest(
            request_id=evaluate.request_id,
            training_set_digest=evaluate.training_set,
            bundle_digests=evaluate.bundles,
        )
        with Heart.beating() as heart:
            heart.say(f"scoring {len(evaluate.bundles)} bundles")
            answer = await self._trainer.EvaluateBundles(request, timeout=_WORK_SECONDS)
        return m.Evaluated(answer.evaluation_digest, answer.evaluation.rows)
