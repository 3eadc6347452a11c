"""What features does: one method per use case."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from chassis.aggregate import Repository
from chassis.artifacts import ArtifactStore
from chassis.cluster import Stop
from chassis.errors import FieldViolation, InvalidArgument, NotFound
from chassis.events import EventLog
from chassis.past import AsOf
from chassis.projection import ProjectionRunner
from chassis.retirement import refuse_retired
from lineal.api.features.v1 import features_service_pb2 as api
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from services.features import assembly, declarations, explaining, parity, projections, training
from services.features.batches import batches
from services.features.compute import Compute
from services.features.declarations import FeatureSetUnknown
from services.features.lookup import Cache, Prepared, answer, prepare, recall
from services.features.online_store import OnlineStore
from tabular import columns as tabular_columns

_PREPARED = 1_000


class TrainingSetUnknown(NotFound):
    """There is no training set of that digest."""


class RequestInvalid(InvalidArgument):
    """A request contradicts itself."""


class Features:
    """The application of features."""

    def __init__(
        self,
        log: EventLog,
        artifacts: ArtifactStore,
        tables: ProjectionRunner,
        batches: ProjectionRunner,
        online: OnlineStore,
        compute: Compute,
    ) -> None:
        self._log = log
        self._artifacts = artifacts
        self._tables = tables
        self._batches = batches
        self._online = online
        self._compute = compute
        self._views = Repository(log, "feature-view", declarations.view_decider)
        self._sets = Repository(log, "feature-set", declarations.set_decider)
        self._training_sets = Repository(log, "training-set", declarations.training_set_decider)
        self._prepared: dict[tuple[str, str], Prepared] = {}
        self._cache = Cache()

    async def register_view(self, *, request_id: str, view: FeatureView) -> tuple[str, int]:
        """Declare a feature view; return its version and the log position."""
        # The dataset may have been declared a moment ago by the same hand.
        head = await self._log.head()
        datasets = await self._tables.query(lambda connection: projections.datasets(connection, [view.dataset]), head)
        retired = await self._tables.query(lambda connection: projections.retired(connection, projections.DATASET))
        outcome = await self._views.execute(
            view.name,
            request_id=request_id,
            decide=lambda state: declarations.register_view(state, view, datasets.get(view.dataset), retired),
        )
        registered = next((e for e in outcome.events if isinstance(e, FeatureViewRegistered)), outcome.state.registered)
        assert registered is not None
        return registered.version, outcome.position

    async def retire_view(self, *, request_id: str, name: str, reason: str) -> int:
        """Let nothing new use a feature view; return the log position. Raises FeatureViewUnknown, StillUsed."""
        head = await self._log.head()
        users = await self._tables.query(lambda connection: projections.users_of_view(connection, name), head)
        outcome = await self._views.execute(
            name,
            request_id=request_id,
            decide=lambda state: declarations.retire_view(state, name, reason=reason, users=users),
        )
        return outcome.position

    async def views_page(
        self, size: int, token: str, include_retired: bool, min_position: int, as_of: AsOf | None
    ) -> tuple[list[FeatureView], str]:
        """Return a page of views by name, and the token of the next."""
        found, token = await self._tables.query(
            lambda connection: projections.views_page(connection, size, token, include_retired), min_position, as_of
        )
        return [registered.feature_view for registered in found], token

    async def retired(self, kind: str, as_of: AsOf | None = None) -> set[str]:
        """Return the names of the retired of a kind, VIEW or SET."""
        return await self._tables.query(lambda connection: projections.retired(connection, kind), as_of=as_of)

    async def register_set(self, *, request_id: str, feature_set: FeatureSet, min_position: int) -> tuple[str, int]:
        """Declare a feature set; return its version and the log position."""
        head = max(min_position, await self._log.head())
        names = [wanted.view for wanted in feature_set.view_features]
        views = await self._tables.query(lambda connection: projections.views(connection, names), head)
        wanted = [feature_set.spine.dataset, feature_set.label.dataset]
        wanted += [registered.feature_view.dataset for registered in views.values()]
        datasets = await self._tables.query(lambda connection: projections.datasets(connection, wanted))
        retired = {"datasets": await self.retired(projections.DATASET), "views": await self.retired(projections.VIEW)}
        outcome = await self._sets.execute(
            feature_set.name,
            request_id=request_id,
            decide=lambda state: declarations.register_set(state, feature_set, datasets, views, retired),
        )
        registered = next((e for e in outcome.events if isinstance(e, FeatureSetRegistered)), outcome.state.registered)
        assert registered is not None
        return registered.version, outcome.position

    async def retire_set(self, *, request_id: str, name: str, reason: str) -> int:
        """Let nothing new use a feature set; return the log position. Raises FeatureSetUnknown, StillUsed."""
        head = await self._log.head()
        users = await self._tables.query(lambda connection: projections.users_of_set(connection, name), head)
        outcome = await self._sets.execute(
            name,
            request_id=request_id,
            decide=lambda state: declarations.retire_set(state, name, reason=reason, users=users),
        )
        return outcome.position

    async def feature_set(
        self, name: str, version: str = "", min_position: int = 0, as_of: AsOf | None = None
    ) -> FeatureSetRegistered:
        """Return a feature set. Raises FeatureSetUnknown."""
        found = await self._tables.query(
            lambda connection: projections.feature_set(connection, name, version), min_position, as_of
        )
        if found is None:
            of_version = f" of version {version[:64]}" if version else ""
            raise FeatureSetUnknown(f"feature set {name!r}{of_version} was never declared; `lineal apply` declares it")
        return found

    async def datasets_of(self, registered: FeatureSetRegistered) -> list[str]:
        """Return the datasets that a feature set is built from, by name."""
        views = await self._views_of(registered)
        declared = registered.feature_set
        names = {declared.spine.dataset, declared.label.dataset}
        return sorted(names | {view.feature_view.dataset for view in views.values()})

    async def sets_page(
        self, size: int, token: str, include_retired: bool, min_position: int, as_of: AsOf | None
    ) -> tuple[list[FeatureSetRegistered], str]:
        """Return a page of feature sets by name, and the token of the next."""
        return await self._tables.query(
            lambda connection: projections.sets_page(connection, size, token, include_retired), min_position, as_of
        )

    async def build_training_set(
        self, *, request_id: str, wanted: TrainingSetBuilt, min_position: int
    ) -> AsyncIterator[api.BuildTrainingSetResponse]:
        """Build a training set, yielding progress and at last the result.

        `wanted` names the feature set, the times and the snapshots. What was built before is answered from the log.
        """
        registered = await self.feature_set(wanted.feature_set, wanted.feature_set_version, min_position)
        views = await self._views_of(registered)
        request = TrainingSetBuilt()
        request.CopyFrom(wanted)
        request.feature_set_version = registered.version
        request.ClearField("snapshots")
        request.snapshots.update(training.snapshots_needed(registered, views, wanted))
        bounded = wanted.HasField("start_time") and wanted.HasField("end_time")
        if bounded and wanted.start_time.ToMicroseconds() >= wanted.end_time.ToMicroseconds():
            what = FieldViolation("end_time", "must be after start_time")
            raise RequestInvalid("the time range of a training set is empty", [what])
        if wanted.HasField("sample_share") and not 0.0 < wanted.sample_share <= 1.0:
            what = FieldViolation("sample_share", "must be above 0 and at most 1")
            raise RequestInvalid("no such share of the rows can be taken", [what])
        if wanted.unlabelled and wanted.HasField("label_known_time"):
            what = FieldViolation("label_known_time", "leave it unset, or ask for labels")
            raise RequestInvalid("a training set without labels cannot wait for them", [what])
        inputs = projections.inputs_of(request)
        before = await self._tables.query(lambda connection: projections.training_set(connection, inputs=inputs))
        if before is not None:
            yield api.BuildTrainingSetResponse(stage="built before", training_set=before)
            return
        name = wanted.feature_set
        refuse_retired((await self._sets.load(name)).state.retired, f"feature set {name!r}", "feature_set")
        plan = await asyncio.to_thread(training.plan, self._artifacts, registered, views, request)
        progress: asyncio.Queue[api.BuildTrainingSetResponse | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def report(stage: str, done: int, steps: int) -> None:
            response = api.BuildTrainingSetResponse(stage=stage, steps_done=done, steps=steps)
            loop.call_soon_threadsafe(progress.put_nowait, response)

        stop = Stop()
        building = asyncio.create_task(asyncio.to_thread(self._compute.build, plan, report, stop))
        building.add_done_callback(lambda _: progress.put_nowait(None))
        try:
            while (response := await progress.get()) is not None:
                yield response
            built = await building
        finally:
            # A client that hung up ends this generator here; the thread must not go on for nobody.
            if not building.done():
                building.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                stopping = loop.run_in_executor(None, stop.set)
                stopping.add_done_callback(lambda ended: ended.exception())
        spine = assembly.dataset_of(plan.sources[registered.feature_set.spine.dataset].declaration)
        manifest = training.manifest(registered, list(spine.row_key), request, built)
        request.training_set_digest = await asyncio.to_thread(self._artifacts.put, manifest)
        request.rows = sum(rows for _, rows in built.files)
        request.label_mean = built.label_mean
        outcome = await self._training_sets.execute(
            request.training_set_digest,
            request_id=request_id,
            decide=lambda state: declarations.record_built(state, request),
        )
        yield api.BuildTrainingSetResponse(stage="done", training_set=projections.resource(request, outcome.position))

    async def training_set(self, digest: str) -> api.TrainingSet:
        """Return a training set. Raises TrainingSetUnknown."""
        state = (await self._training_sets.load(digest)) if digest else None
        if state is None or state.state.built is None:
            raise TrainingSetUnknown(f"there is no training set {digest[:80]!r}; ListTrainingSets names them")
        return projections.resource(state.state.built, state.position)

    async def training_sets_page(
        self, name: str, size: int, token: str, min_position: int, as_of: AsOf | None
    ) -> tuple[list[api.TrainingSet], str]:
        """Return a page of training sets, newest first, and the token of the next."""
        return await self._tables.query(
            lambda connection: projections.training_sets(connection, name, size, token), min_position, as_of
        )

    async def training_set_pieces(self, digest: str) -> AsyncIterator[bytes]:
        """Yield the rows of a training set as pieces of an Arrow IPC stream."""
        await self.training_set(digest)
        manifest: dict[str, Any] = json.loads(await asyncio.to_thread(self._artifacts.read, digest))
        paths = [await asyncio.to_thread(self._artifacts.path, file["digest"]) for file in manifest["files"]]
        pieces = assembly.pieces(paths)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    async def online_features(self, request: api.GetOnlineFeaturesRequest) -> api.GetOnlineFeaturesResponse:
        """Return the view features of a feature set for entities as of each row's cut-off."""
        prepared = self._prepared.get((request.feature_set, request.feature_set_version))
        if prepared is None:
            prepared = await self._prepare(request.feature_set, request.feature_set_version, request.min_position)
        cutoffs = list(request.cutoff_micros)
        rows = tabular_columns.length(request.entities[0]) if request.entities else len(cutoffs)
        if len(cutoffs) not in (1, rows) or not cutoffs:
            what = FieldViolation("cutoff_micros", f"give one cut-off for all rows or {rows}, one per row")
            raise RequestInvalid(f"{len(cutoffs)} cut-offs for {rows} rows", [what])
        # Quicker than the way to another thread and into the database.
        if request.min_position <= self._online.position:
            held = recall(prepared, self._cache, self._online.still, request.entities, cutoffs, rows)
            if held is not None:
                return held
        await self._online.wait_for(request.min_position)
        response, position = await self._online.read(
            lambda store: answer(prepared, store, self._cache, request.entities, cutoffs, rows)
        )
        response.position = position
        return response

    async def explain(self, request: api.ExplainFeaturesRequest) -> AsyncIterator[api.ExplainFeaturesResponse]:
        """Yield the rows behind one entity's features. Raises FeatureSetUnknown, KeyInvalid, TooManyRows."""
        head = await self._log.head()
        position = min(request.position, head) or head
        registered = await self.feature_set(request.feature_set, request.feature_set_version, position)
        views = await self._views_of(registered)
        names = [view.feature_view.dataset for view in views.values()]
        datasets = await self._tables.query(lambda connection: projections.datasets(connection, names))
        declared, of_views = await self._tables.query(lambda connection: projections.positions(connection, registered))
        for wanted in registered.feature_set.view_features:
            view = views[wanted.view].feature_view
            found = await self._batches.query(lambda c, name=view.dataset: batches(c, name, position), position)  # type: ignore[misc]
            asked = explaining.Asked(
                wanted, view, datasets[view.dataset], request.entities, request.cutoff_micros, found
            )
            for response in await asyncio.to_thread(explaining.explain, self._artifacts, asked):
                response.view_version, response.view_position = views[wanted.view].version, of_views[wanted.view]
                response.feature_set_position, response.position = declared, position
                yield response

    async def check_parity(self, request: api.CheckParityRequest) -> api.CheckParityResponse:
        """Compare what was served with what accepted rows give. Raises FeatureSetUnknown, TooManyServed."""
        # A position that the log has not reached is not waited for.
        position = min(max((one.position for one in request.served), default=0), await self._log.head())
        registered = await self.feature_set(request.feature_set, request.feature_set_version, position)
        views = await self._views_of(registered)
        declared = {name: view.feature_view for name, view in views.items()}
        feature_set = registered.feature_set
        names = [feature_set.spine.dataset, *(view.dataset for view in declared.values())]
        datasets = await self._tables.query(lambda connection: projections.datasets(connection, names))
        asked = parity.asked_of(request.served, datasets[feature_set.spine.dataset], registered.entity_columns)
        tables = []
        for n, wanted in enumerate(feature_set.view_features if request.served else ()):
            view = declared[wanted.view]
            found = await self._batches.query(lambda c, name=view.dataset: batches(c, name, position), position)  # type: ignore[misc]
            one = parity.View(feature_set, n, view, datasets[view.dataset], found)
            tables.append(await asyncio.to_thread(parity.computed, self._artifacts, one, asked))
        return await asyncio.to_thread(parity.compared, request.served, registered, declared, tables)

    async def _prepare(self, name: str, version: str, min_position: int) -> Prepared:
        registered = await self.feature_set(name, version, min_position)
        key = name, registered.version
        if key not in self._prepared:
            views = await self._views_of(registered)
            spine = registered.feature_set.spine.dataset
            datasets = await self._tables.query(lambda connection: projections.datasets(connection, [spine]))
            # The online tables read the same log on their own: they must have seen the views.
            await self._online.wait_for(await self._log.head())
            versions = list(registered.view_versions.values())
            found = await self._online.layouts(versions)
            if len(self._prepared) >= _PREPARED:
                self._prepared.clear()
            self._prepared[key] = prepare(registered, views, found, datasets[spine])
        return self._prepared[key]

    async def _views_of(self, registered: FeatureSetRegistered) -> Mapping[str, FeatureViewRegistered]:
        versions = dict(registered.view_versions)
        return await self._tables.query(lambda connection: projections.view_versions(connection, versions))
