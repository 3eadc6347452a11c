"""Watch: close and examine the periods of an endpoint, on a Temporal Schedule."""

import uuid
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m

_NAMESPACE = uuid.UUID("6f2f4c0a-74f4-5f4e-9c2a-0d7c1c1d6d10")


@workflow.defn
class Watch:
    """One examination; monitor raises the alarms, the bridge acts on them."""

    @workflow.run
    async def run(self, given: m.WatchInput) -> m.WatchEnd:
        """Examine the endpoint once."""
        workflow.set_current_details(f"examining the periods of **{given.endpoint}** that the watermark has passed")
        found = await examined(m.EXAMINE_PERIODS, given.endpoint, f"examine {given.endpoint}")
        workflow.set_current_details(
            f"closed {found.periods} periods of **{given.endpoint}**, "
            f"watermark {found.watermark_time or 'none'}\n\n{listed(found.alarms)}"
        )
        return found


async def examined(activity: m.Activity[m.Examine, m.Out], endpoint: str, summary: str) -> m.Out:
    """Return what an activity of monitor finds on an endpoint, once in this run."""
    info = workflow.info()
    found: m.Out = await workflow.execute_activity(
        activity.name,
        m.Examine(m.Origin(info.workflow_id, endpoint), str(uuid.uuid5(_NAMESPACE, info.first_execution_run_id))),
        result_type=activity.result,
        start_to_close_timeout=timedelta(minutes=15),
        heartbeat_timeout=timedelta(seconds=10),
        # The next examination is never far: one that is refused or finds monitor away leaves it to that.
        retry_policy=RetryPolicy(maximum_attempts=3),
        summary=summary,
    )
    return found


def listed(alarms: list[str]) -> str:
    """Return alarms as Temporal's UI shows them."""
    return "".join(f"- {alarm}\n" for alarm in alarms) or "no alarm"
