"""Release: a bundle becomes the champion by shadow and canary, or is rejected."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m

from workflows.releasing import Releasing


@workflow.defn
class Release(Releasing):
    """Shadow, canary steps, promotion; undone by the arms as they were and the bundle rejected."""

    @workflow.run
    async def run(self, given: m.ReleaseInput) -> m.SagaEnd:
        """Release a bundle."""

        async def work() -> str:
            self._before_changing(
                f"reject bundle {given.bundle[:12]}",
                lambda: self._reject_bundle(given.bundle, "its release was undone"),
            )
            return await self._release(given.bundle, given.approval_seconds)

        title = f"Release of {given.bundle[:12]} on {given.origin.endpoint}"
        return await self._carry_out(given.origin, title, work)
