"""Rollback: the previous champion comes back, and the one that failed is rejected."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m

from workflows.saga import Saga, Stopped


@workflow.defn
class Rollback(Saga):
    """The previous champion back on all replicas, confirmed."""

    @workflow.run
    async def run(self, given: m.RollbackInput) -> m.SagaEnd:
        """Roll back."""

        async def work() -> str:
            self._show("waiting until no other saga is under way on the endpoint; it was told to undo itself")
            endpoint = await self._long(m.WAIT_UNTIL_ACTIVE, given.origin, "wait for the other saga to end")
            previous, failed = endpoint.previous_champion, endpoint.champion
            if not previous:
                raise Stopped(f"{given.origin.endpoint} has no previous champion any more")
            # A way back is what this is; it is not itself undone.
            self._no_way_back()
            await self._change_arms("rollback", [m.Arm(previous, "champion")], given.reason or "rollback")
            outcome = f"{previous[:12]} is the champion of {given.origin.endpoint} again, {failed[:12]} is rejected"
            await self._reject_bundle(failed, given.reason or "it was rolled back")
            await self._advance("rollback", outcome, bundle=previous)
            return outcome

        return await self._carry_out(given.origin, f"Rollback of {given.origin.endpoint}", work)
