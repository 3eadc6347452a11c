"""Score: compute the features of a snapshot's rows as of their cut-offs, then have serving score them."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m
    from workflows import scoring_messages as s

from workflows.saga import Saga


@workflow.defn
class Score(Saga):
    """Snapshots, features, scores; a scoring that ends without a result leaves nothing that is named.

    It changes no endpoint, so it holds none: its steps and its end are serving's to record.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scoring_id = ""

    @workflow.run
    async def run(self, given: s.ScoreInput) -> m.SagaEnd:
        """Carry out a scoring."""
        self._scoring_id = given.scoring_id

        async def work() -> str:
            named = m.Named(given.origin, given.scoring_id)
            scoring = await self._command(s.READ_SCORING, named, "read what is scored")
            if scoring.ended:
                return f"it had {scoring.ended} before"
            training_set = await self._features(given.origin, scoring) if scoring.feature_set else ""
            self._show("scoring: the activity's heartbeat tells how far it is")
            run = s.RunScoring(given.origin, self._request_id("run"), given.scoring_id, training_set)
            return (await self._long(s.RUN_SCORING, run, "score the rows")).finding

        return await self._carry_out(given.origin, f"Score {given.scoring_id[:8]}", work)

    async def _features(self, origin: m.Origin, scoring: s.ScoringView) -> str:
        wanted = m.Named(origin, scoring.feature_set, scoring.feature_set_version)
        declared = await self._command(m.READ_FEATURE_SET, wanted, "read the feature set")
        others = [dataset for dataset in declared.datasets if dataset != scoring.dataset]
        await self._advance(
            "snapshots", f"of {', '.join(others) or scoring.dataset} at log position {scoring.position}"
        )
        taken = await asyncio.gather(
            *(
                self._long(
                    m.TAKE_SNAPSHOT,
                    m.TakeSnapshot(origin, self._request_id(f"snapshot/{dataset}"), dataset, scoring.position),
                    f"snapshot of {dataset}",
                )
                for dataset in others
            )
        )
        snapshots = {name: snapshot.digest for name, snapshot in zip(others, taken, strict=True)}
        await self._advance("features", "computing them as of each row's cut-off")
        built = await self._long(
            m.BUILD_TRAINING_SET,
            m.BuildTrainingSet(
                origin,
                self._request_id("training set"),
                scoring.feature_set,
                scoring.feature_set_version,
                {scoring.dataset: scoring.snapshot} | snapshots,
                max([scoring.position, *(snapshot.position for snapshot in taken)]),
                scoring.start_time,
                scoring.end_time,
                unlabelled=True,
            ),
            f"compute the features of {scoring.dataset}",
        )
        await self._advance("features", f"of {built.rows:,} rows")
        return built.digest

    async def _record_step(self, step: str, finding: str, evidence: str, bundle: str) -> None:
        del evidence, bundle
        stage = s.ScoringStage(
            self._origin, self._request_id(f"advance/{step}"), self._scoring_id, f"{step}: {finding}"
        )
        await self._command(s.ADVANCE_SCORING, stage, f"record: {step}")

    async def _record_end(self, completed: bool, outcome: str) -> None:
        # With its result serving has recorded the end already.
        if not completed:
            failed = s.ScoringStage(self._origin, self._request_id("finish"), self._scoring_id, outcome)
            await self._command(s.FAIL_SCORING, failed, "end without a result")
