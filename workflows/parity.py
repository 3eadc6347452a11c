"""Parity: check what an endpoint's newest predictions were given, on a Temporal Schedule."""

import uuid
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m

_NAMESPACE = uuid.UUID("0d1f2f0a-2b6a-5c5b-8f58-3a3f0a1c7c44")


@workflow.defn
class Parity:
    """One parity check; monitor records it and raises the alarm."""

    @workflow.run
    async def run(self, given: m.WatchInput) -> m.ParityEnd:
        """Check the endpoint once."""
        info = workflow.info()
        workflow.set_current_details(f"computing anew what the newest predictions of **{given.endpoint}** were given")
        found: m.ParityEnd = await workflow.execute_activity(
            m.CHECK_PARITY.name,
            m.Examine(
                m.Origin(info.workflow_id, given.endpoint), str(uuid.uuid5(_NAMESPACE, info.first_execution_run_id))
            ),
            result_type=m.CHECK_PARITY.result,
            start_to_close_timeout=timedelta(minutes=15),
            heartbeat_timeout=timedelta(seconds=10),
            # As of an examination: the next check is never far.
            retry_policy=RetryPolicy(maximum_attempts=3),
            summary=f"check the parity of {given.endpoint}",
        )
        alarms = "".join(f"- {alarm}\n" for alarm in found.alarms) or "no alarm"
        workflow.set_current_details(
            f"{found.predictions:,} predictions of **{given.endpoint}**, {found.values:,} values, "
            f"{found.differing_values:,} differ\n\n{alarms}"
        )
        return found
