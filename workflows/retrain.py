"""Retrain: train a candidate on what is known now, let the gates judge it, then release it."""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m

from workflows.releasing import Releasing
from workflows.saga import Stopped


@workflow.defn
class Retrain(Releasing):
    """Snapshots, training set, run, gates, release; undone by the bundle rejected, with its evidence kept."""

    def __init__(self) -> None:
        super().__init__()
        self._approved_bundles: dict[str, m.Decision] = {}

    @workflow.update(description="A person approved a bundle whose gates held.")
    async def bundle_approved(self, decision: m.Decision) -> str:
        """Take the approval of a bundle."""
        self._approved_bundles[decision.bundle] = decision
        return f"bundle {decision.bundle[:12]} was approved"

    @workflow.run
    async def run(self, given: m.RetrainInput) -> m.SagaEnd:
        """Train a candidate and release it."""

        async def work() -> str:
            endpoint = await self._command(m.READ_ENDPOINT, given.origin, "read the endpoint")
            model = await self._command(m.READ_MODEL, m.Named(given.origin, endpoint.model), "read the model")
            training_set = await self._training_set(given, given.feature_set or model.feature_set, model)
            bundle = await self._trained(given, endpoint, model, training_set)
            await self._gates(given, bundle, training_set, endpoint.champion)
            return await self._release(bundle, given.approval_seconds)

        return await self._carry_out(given.origin, f"Retrain of {given.origin.endpoint}", work)

    async def _training_set(self, given: m.RetrainInput, feature_set: str, model: m.ModelView) -> str:
        origin = given.origin
        declared = await self._command(m.READ_FEATURE_SET, m.Named(origin, feature_set), "read the feature set")
        known = await self._command(m.READ_POSITION, origin, "read the log's head")
        self._show(f"taking snapshots of {', '.join(declared.datasets)} at log position {known.position}")
        taken = await asyncio.gather(
            *(
                self._long(
                    m.TAKE_SNAPSHOT,
                    m.TakeSnapshot(origin, self._request_id(f"snapshot/{dataset}"), dataset, known.position),
                    f"snapshot of {dataset}",
                )
                for dataset in declared.datasets
            )
        )
        snapshots = dict(zip(declared.datasets, taken, strict=True))
        rows = ", ".join(f"{name} {snapshot.rows:,} rows" for name, snapshot in snapshots.items())
        await self._advance("snapshots", f"at log position {known.position}: {rows}")
        latest = snapshots[declared.spine].latest_event_time
        start = given.training_start_time or _looking_back(given.training_end_time or latest, model.lookback_seconds)
        self._show("building the training set")
        built = await self._long(
            m.BUILD_TRAINING_SET,
            m.BuildTrainingSet(
                origin,
                self._request_id("training set"),
                feature_set,
                declared.version,
                {name: snapshot.digest for name, snapshot in snapshots.items()},
                max(snapshot.position for snapshot in taken),
                start,
                given.training_end_time,
                given.training_end_time,
            ),
            f"build the training set of {feature_set}",
        )
        span = f"from {start or 'the first'} to {given.training_end_time or 'the last known row'}"
        await self._advance("training set", f"{built.rows:,} rows {span}", evidence=built.digest)
        return built.digest

    async def _trained(
        self, given: m.RetrainInput, endpoint: m.EndpointView, model: m.ModelView, training_set: str
    ) -> str:
        name = endpoint.model
        start = m.StartRun(
            given.origin,
            self._request_id("run"),
            name,
            training_set,
            model.parameters_json,
            given.exclude_columns,
        )
        run = await self._command(m.START_RUN, start, "start the run")
        self._show(f"training: run {run.name}; the watching activity's heartbeat tells how far it is")
        ended = await self._long(m.WATCH_RUN, run, f"watch run {run.name[:8]}")
        if not ended.bundle:
            raise Stopped(f"run {run.name} failed: {ended.failure}")
        if ended.bundle == endpoint.champion:
            raise Stopped(f"run {run.name} made the champion once more: there is nothing new to release")
        self._before_changing(
            f"reject bundle {ended.bundle[:12]}", lambda: self._reject_bundle(ended.bundle, "its retrain was undone")
        )
        command = m.BundleCommand(given.origin, self._request_id("bundle"), ended.bundle, model=name)
        await self._command(m.REGISTER_BUNDLE, command, f"register bundle {ended.bundle[:12]}")
        await self._advance("run", f"run {run.name} made {ended.bundle[:12]}: {ended.metrics}", bundle=ended.bundle)
        return ended.bundle

    async def _gates(self, given: m.RetrainInput, bundle: str, training_set: str, champion: str) -> None:
        self._show("scoring the candidate and the champion on the same untouched rows")
        bundles = [bundle, champion] if champion and champion != bundle else [bundle]
        evaluated = await self._long(
            m.EVALUATE_BUNDLES,
            m.Evaluate(given.origin, self._request_id("evaluation"), training_set, bundles),
            "evaluate candidate and champion",
        )
        gates = await self._command(
            m.EVALUATE_GATES,
            m.Gates(given.origin, self._request_id("gates"), bundle, evaluated.evaluation, "".join(bundles[1:])),
            "decide the gates",
        )
        if gates.state not in ("gated", "releasable"):
            raise Stopped(f"gates: {gates.finding}", evaluated.evaluation)
        await self._advance("gates", gates.finding, evidence=evaluated.evaluation)
        if gates.state == "gated":
            await self._bundle_approval(bundle, given.approval_seconds)

    async def _bundle_approval(self, bundle: str, seconds: float) -> None:
        question = f"bundle {bundle[:12]} has passed its gates; its model wants a person's approval."
        self._state_is("waiting")
        self._show(f"waiting for a person: {question} Say `lineal approve {bundle[:12]}`.")
        await self._advance("waiting for a person", question)
        try:
            await workflow.wait_condition(
                lambda: bundle in self._approved_bundles, timeout=seconds, timeout_summary="time for a person to decide"
            )
        except TimeoutError:
            raise Stopped(f"nobody approved bundle {bundle[:12]} within {timedelta(seconds=seconds)}") from None
        decision = self._approved_bundles[bundle]
        self._state_is("active")
        await self._advance("approved", f"{decision.actor} approved: {decision.reason or 'no reason given'}")


def _looking_back(end: str, seconds: float) -> str:
    if not end or not seconds:
        return ""
    return (datetime.fromisoformat(end) - timedelta(seconds=seconds)).isoformat()
