"""How a bundle becomes the champion of an endpoint: the steps that Release and Retrain share."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m

from workflows.saga import Saga, Stopped


class Releasing(Saga):
    """A saga that can release a bundle: shadow, canary steps, promotion, each judged by monitor."""

    async def _release(self, bundle: str, approval_seconds: float) -> str:
        """Make a bundle the champion and return in plain words how; the caller has registered how to reject it.

        Raises Stopped when it does harm, or when nobody decides what the numbers leave open.
        """
        endpoint = await self._command(m.READ_ENDPOINT, self._origin, "read the endpoint")
        if not endpoint.champion:
            return await self._first(bundle, endpoint, approval_seconds)
        before = [arm for arm in endpoint.arms if arm.bundle != bundle]
        self._before_changing("bring the arms back as they were", lambda: self._restore(before))
        champion = m.Arm(endpoint.champion, "champion")
        generation = await self._change_arms(
            "shadow", [champion, m.Arm(bundle, "shadow")], f"{bundle[:12]} scores in the shadow"
        )
        first = generation
        await self._judged("shadow", bundle, endpoint, first, generation, approval_seconds)
        approved = False
        for share in endpoint.canary_shares:
            step = f"canary {share:.0%}"
            generation = await self._change_arms(
                step, [champion, m.Arm(bundle, "challenger", share)], f"{bundle[:12]} answers {share:.0%}"
            )
            approved = await self._judged(step, bundle, endpoint, first, generation, approval_seconds)
        if endpoint.approval_required and not approved:
            await self._person(f"may {bundle[:12]} become the champion?", approval_seconds)
        await self._change_arms("promotion", [m.Arm(bundle, "champion")], f"{bundle[:12]} has passed the canary")
        self._no_way_back()
        outcome = f"{bundle[:12]} is the champion of {self._origin.endpoint}, after {endpoint.champion[:12]}"
        await self._advance("promotion", outcome, bundle=bundle)
        return outcome

    async def _first(self, bundle: str, endpoint: m.EndpointView, approval_seconds: float) -> str:
        if endpoint.approval_required:
            await self._person(f"may {bundle[:12]} become the first champion?", approval_seconds)
        # There is no champion to bring back, so a rejection that comes later is refused.
        self._no_way_back()
        await self._change_arms("first release", [m.Arm(bundle, "champion")], "first release, there is no champion")
        outcome = f"{bundle[:12]} is the first champion of {self._origin.endpoint}"
        await self._advance(
            "promotion",
            f"{outcome}; shadow and canary were skipped: there is no champion to compare with",
            bundle=bundle,
        )
        return outcome

    async def _judged(
        self, step: str, bundle: str, endpoint: m.EndpointView, first: int, generation: int, approval_seconds: float
    ) -> bool:
        """Wait for the verdict on a step; return whether a person let it pass."""
        self._show(f"{step}: waiting for enough predictions and outcomes; the judging activity's heartbeat counts them")
        shadow = step == "shadow"
        judge = m.Judge(
            self._origin,
            self._request_id(f"judge/{step}"),
            bundle,
            endpoint.champion,
            first,
            generation,
            shadow,
            endpoint.policy_json,
        )
        found = await self._long(m.JUDGE_RELEASE, judge, f"judge the {step}")
        if found.verdict == "fail":
            raise Stopped(f"{step}: {found.finding}", found.evidence)
        await self._advance(step, f"{found.verdict}: {found.finding}", evidence=found.evidence)
        if found.verdict == "pass":
            return False
        await self._person(f"{step} is {found.verdict}: {found.finding}. Shall the release go on?", approval_seconds)
        return True

    async def _restore(self, before: list[m.Arm]) -> None:
        await self._change_arms("undo", before, "the release is undone")
