"""Activities on serving: carry a scoring out."""

import grpc.aio
from temporalio import activity

from lineal.api.serving.v1 import scoring_service_pb2 as api
from lineal.api.serving.v1.scoring_pb2 import Scoring, ScoringState
from lineal.api.serving.v1.scoring_service_pb2_grpc import ScoringServiceStub
from workflows import messages as m
from workflows import scoring_messages as s
from workflows.activities import COMMAND_SECONDS, Heart

_ENDED = {ScoringState.SCORING_STATE_COMPLETED: "completed", ScoringState.SCORING_STATE_FAILED: "failed"}


class ScoringActivities:
    """Scorings."""

    def __init__(self, serving: grpc.aio.Channel) -> None:
        self._serving = ScoringServiceStub(serving)

    @activity.defn(name=s.READ_SCORING.name)
    async def read_scoring(self, named: m.Named) -> s.ScoringView:
        """Return what is scored."""
        request = api.GetScoringRequest(scoring_id=named.name)
        scoring = (await self._serving.GetScoring(request, timeout=COMMAND_SECONDS)).scoring
        plan = scoring.plan
        rows = plan.snapshot
        return s.ScoringView(
            ended=_ENDED.get(scoring.state, ""),
            feature_set=plan.feature_set,
            feature_set_version=plan.feature_set_version,
            position=plan.as_of_position,
            dataset=rows.dataset,
            snapshot=rows.snapshot_digest,
            start_time=rows.start_time.ToJsonString() if rows.HasField("start_time") else "",
            end_time=rows.end_time.ToJsonString() if rows.HasField("end_time") else "",
        )

    @activity.defn(name=s.ADVANCE_SCORING.name)
    async def advance_scoring(self, stage: s.ScoringStage) -> m.Position:
        """Record what is being done."""
        request = api.AdvanceScoringRequest(request_id=stage.request_id, scoring_id=stage.scoring_id, stage=stage.text)
        return m.Position((await self._serving.AdvanceScoring(request, timeout=COMMAND_SECONDS)).position)

    @activity.defn(name=s.RUN_SCORING.name)
    async def run_scoring(self, run: s.RunScoring) -> s.Scored:
        """Have the rows scored; parts that are done are not scored again."""
        request = api.RunScoringRequest(
            request_id=run.request_id, scoring_id=run.scoring_id, training_set_digest=run.training_set
        )
        scoring = Scoring()
        with Heart.beating() as heart:
            async for progress in self._serving.RunScoring(request):
                scoring = progress.scoring
                heart.say(f"{scoring.stage}: {scoring.done} of {scoring.total} parts")
        result = scoring.result
        return s.Scored(f"{result.rows:,} rows, mean score {result.score_mean:.4f}, result {result.result_digest[:12]}")

    @activity.defn(name=s.FAIL_SCORING.name)
    async def fail_scoring(self, failed: s.ScoringStage) -> m.Position:
        """Record that there is no result, and why."""
        request = api.FailScoringRequest(
            request_id=failed.request_id, scoring_id=failed.scoring_id, failure=failed.text
        )
        return m.Position((await self._serving.FailScoring(request, timeout=COMMAND_SECONDS)).position)
