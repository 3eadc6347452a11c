"""Parity: check what an endpoint's newest predictions were given, on a Temporal Schedule."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m
    from workflows.watch import examined, listed


@workflow.defn
class Parity:
    """One parity check; monitor records it and raises the alarm."""

    @workflow.run
    async def run(self, given: m.WatchInput) -> m.ParityEnd:
        """Check the endpoint once."""
        workflow.set_current_details(f"computing anew what the newest predictions of **{given.endpoint}** were given")
        found = await examined(m.CHECK_PARITY, given.endpoint, f"check the parity of {given.endpoint}")
        workflow.set_current_details(
            f"{found.predictions:,} predictions of **{given.endpoint}**, {found.values:,} values, "
            f"{found.differing_values:,} differ\n\n{listed(found.alarms)}"
        )
        return found
