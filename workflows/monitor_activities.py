"""Activities on monitor: judge a release, examine periods, check parity."""

import asyncio

import grpc.aio
from google.protobuf import json_format
from temporalio import activity

from lineal.api.monitor.v1 import monitor_service_pb2 as api
from lineal.api.monitor.v1.monitor_service_pb2_grpc import MonitorServiceStub
from lineal.api.monitor.v1.report_pb2 import ReleaseStage, Verdict
from lineal.api.registry.v1.endpoint_pb2 import ReleasePolicy
from workflows import messages as m
from workflows.activities import Heart

_LOOK_SECONDS = 30.0
_EXAMINE_SECONDS = 600.0


class MonitorActivities:
    """The judge of releases, looked at every `poll_seconds`; the tests hold at any look."""

    def __init__(self, channel: grpc.aio.Channel, poll_seconds: float) -> None:
        self._monitor = MonitorServiceStub(channel)
        self._poll_seconds = poll_seconds

    @activity.defn(name=m.JUDGE_RELEASE.name)
    async def judge_release(self, judge: m.Judge) -> m.Judgement:
        """Return the verdict on a step, once there is one."""
        stage = ReleaseStage.RELEASE_STAGE_SHADOW if judge.shadow else ReleaseStage.RELEASE_STAGE_CANARY
        request = api.JudgeReleaseRequest(
            request_id=judge.request_id,
            endpoint=judge.origin.endpoint,
            candidate_digest=judge.candidate,
            champion_digest=judge.champion,
            from_generation=judge.from_generation,
            step_generation=judge.step_generation,
            stage=stage,
            policy=json_format.Parse(judge.policy_json, ReleasePolicy()),
        )
        with Heart.beating() as heart:
            while True:
                answer = await self._monitor.JudgeRelease(request, timeout=_LOOK_SECONDS)
                heart.say(answer.finding)
                if answer.verdict != Verdict.VERDICT_WAIT:
                    verdict = Verdict.Name(answer.verdict).removeprefix("VERDICT_").lower()
                    return m.Judgement(verdict, answer.finding, answer.report_digest)
                await asyncio.sleep(self._poll_seconds)

    @activity.defn(name=m.EXAMINE_PERIODS.name)
    async def examine_periods(self, examine: m.Examine) -> m.WatchEnd:
        """Close and examine the periods that the watermark has passed."""
        request = api.ExaminePeriodsRequest(request_id=examine.request_id, endpoint=examine.origin.endpoint)
        with Heart.beating() as heart:
            heart.say("examining")
            answer = await self._monitor.ExaminePeriods(request, timeout=_EXAMINE_SECONDS)
        watermark = answer.watermark_time.ToJsonString() if answer.HasField("watermark_time") else ""
        return m.WatchEnd(len(answer.periods), [alarm.finding for alarm in answer.alarms], watermark)

    @activity.defn(name=m.CHECK_PARITY.name)
    async def check_parity(self, examine: m.Examine) -> m.ParityEnd:
        """Have what the newest predictions were given computed anew and compared."""
        request = api.CheckParityRequest(request_id=examine.request_id, endpoint=examine.origin.endpoint)
        with Heart.beating() as heart:
            heart.say("checking")
            answer = await self._monitor.CheckParity(request, timeout=_EXAMINE_SECONDS)
        found = answer.check
        alarms = [alarm.finding for alarm in answer.alarms]
        return m.ParityEnd(found.predictions, found.values, found.differing_values, alarms)
