"""What every saga has: steps that can be undone, a person's word at any time, and a page that says where it stands."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from workflows import messages as m

In = TypeVar("In")
Out = TypeVar("Out")

STATE = SearchAttributeKey.for_keyword("LinealState")
BUNDLE = SearchAttributeKey.for_keyword("LinealBundle")

_NAMESPACE = uuid.UUID("0b7f9d64-6a0b-5d1c-8a3d-3f6d2f7c9e55")
_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10), maximum_attempts=0
)
# Longer than the deadline of the RPC inside, so that a lost worker is noticed and a slow service is not.
_COMMAND = timedelta(seconds=8)
_LONG = timedelta(days=30)
_HEARTBEAT = timedelta(seconds=10)


class Stopped(Exception):
    """A saga does not go on: it undoes what it did. `evidence` is the digest of what decided."""

    def __init__(self, reason: str, evidence: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.evidence = evidence


class Saga:
    """The base of Retrain, Release, Rollback and Score.

    A subclass does its work in `_carry_out(origin, title, work)`. Before a step that changes something it registers how
    to undo it; a failure, a person's rejection or Temporal's cancellation undoes all in reverse order and ends the saga
    as compensated.
    """

    def __init__(self) -> None:
        self._origin = m.Origin("", "")
        self._title = ""
        self._state = "active"
        self._doing = ""
        self._steps: list[str] = []
        self._undo: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._repeats: dict[str, int] = {}
        self._rejected: m.Decision | None = None
        self._approved: m.Decision | None = None
        self._asked = False
        # From here on there is no way back, only forward.
        self._decided = False
        self._stopping = False

    # What others may say and ask

    @workflow.update(description="Let the saga go on, which waits for a person.")
    async def approve(self, decision: m.Decision) -> str:
        """Take a person's approval."""
        self._approved = decision
        return f"{self._title} goes on"

    @approve.validator
    def _may_approve(self, decision: m.Decision) -> None:
        del decision
        if not self._asked:
            raise ValueError(f"{self._title} does not wait for a person; it is {self._doing or 'starting'}")

    @workflow.update(description="Stop the saga; it undoes what it did.")
    async def reject(self, decision: m.Decision) -> str:
        """Take a person's rejection."""
        self._rejected = decision
        return f"{self._title} undoes what it did"

    @reject.validator
    def _may_reject(self, decision: m.Decision) -> None:
        del decision
        if self._rejected:
            raise ValueError(f"{self._title} was rejected already")
        if self._decided:
            raise ValueError(f"{self._title} can no longer be stopped; it is {self._doing}")

    @workflow.query(description="Where the saga stands.")
    def state(self) -> m.SagaStatus:
        """Return where the saga stands."""
        return m.SagaStatus(self._state, self._doing, list(self._steps))

    # What subclasses work with

    async def _carry_out(self, origin: m.Origin, title: str, work: Callable[[], Awaitable[str]]) -> m.SagaEnd:
        self._origin, self._title = origin, title
        self._show("starting")
        try:
            outcome = await self._unless_rejected(work)
        except asyncio.CancelledError:
            why = workflow.cancellation_reason() or "no reason was given"
            await _protected(self._compensate(f"the workflow was cancelled in Temporal: {why}", ""))
            raise
        except Stopped as stopped:
            return await _protected(self._compensate(stopped.reason, stopped.evidence))
        except ActivityError as error:
            return await _protected(self._compensate(_words(error), ""))
        return await _protected(self._finish(completed=True, outcome=outcome))

    def _before_changing(self, what: str, undo: Callable[[], Awaitable[None]]) -> None:
        """Register how to undo a step; it must be harmless when the step never happened."""
        self._undo.append((what, undo))

    def _no_way_back(self) -> None:
        """Undo nothing from here on: there is nothing to go back to, or it is done."""
        self._undo.clear()
        self._decided = True

    async def _command(self, activity: m.Activity[In, Out], argument: In, summary: str) -> Out:
        """Run a short activity; one that is under way is waited for even when the saga is stopped.

        Else a command still on its way could take effect after the saga has undone it.
        """
        result: Out = await workflow.execute_activity(
            activity.name,
            argument,
            result_type=activity.result,
            start_to_close_timeout=_COMMAND,
            retry_policy=_RETRY,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=summary,
        )
        self._stop_if_stopped()
        return result

    async def _long(self, activity: m.Activity[In, Out], argument: In, summary: str) -> Out:
        """Run an activity that takes its time and heartbeats; when the saga is stopped nobody waits for it."""
        result: Out = await workflow.execute_activity(
            activity.name,
            argument,
            result_type=activity.result,
            start_to_close_timeout=_LONG,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_RETRY,
            summary=summary,
        )
        self._stop_if_stopped()
        return result

    def _stop_if_stopped(self) -> None:
        """Raise the cancellation that an activity swallowed: one waited for, or one that ended in the same moment."""
        if self._stopping and not self._decided:
            raise asyncio.CancelledError

    def _request_id(self, step: str) -> str:
        """Return the request id of a step: the same in every attempt and after a reset of the workflow."""
        self._repeats[step] = n = self._repeats.get(step, 0) + 1
        info = workflow.info()
        return str(uuid.uuid5(_NAMESPACE, f"{info.workflow_id}/{info.first_execution_run_id}/{step}/{n}"))

    async def _advance(self, step: str, finding: str, *, evidence: str = "", bundle: str = "") -> None:
        """Record a step in the log and on the page."""
        self._steps.append(f"**{step}**: {finding}")
        self._show(self._doing)
        if bundle:
            workflow.upsert_search_attributes([BUNDLE.value_set(bundle)])
        await self._record_step(step, finding, evidence, bundle)

    async def _record_step(self, step: str, finding: str, evidence: str, bundle: str) -> None:
        advance = m.Advance(self._origin, self._request_id(f"advance/{step}"), step, finding, evidence, bundle)
        await self._command(m.ADVANCE_SAGA, advance, f"record: {step}")

    async def _person(self, question: str, seconds: float) -> m.Decision:
        """Wait for a person's approval.

        Raises Stopped when nobody gave it in time; a rejection ends the saga from outside.
        """
        self._asked, self._approved = True, None
        self._state_is("waiting")
        self._show(f"waiting for a person: {question} Say `lineal approve {self._origin.saga_id}` or `lineal reject`.")
        await self._advance("waiting for a person", question)
        try:
            await workflow.wait_condition(
                lambda: self._approved is not None, timeout=seconds, timeout_summary="time for a person to decide"
            )
        except TimeoutError:
            raise Stopped(f"nobody decided within {timedelta(seconds=seconds)}: {question}") from None
        finally:
            self._asked = False
        decision = self._approved
        assert decision is not None
        self._state_is("active")
        await self._advance("approved", f"{decision.actor} approved: {decision.reason or 'no reason given'}")
        return decision

    async def _change_arms(self, step: str, arms: list[m.Arm], reason: str) -> int:
        """Replace the arms, wait until every replica has them, and return their generation."""
        self._show(f"{step}: changing the arms to {describe(arms)}")
        change = m.ChangeArms(self._origin, self._request_id(f"arms/{step}"), arms, reason)
        changed = await self._command(m.CHANGE_ARMS, change, f"arms: {describe(arms)}")
        self._show(f"{step}: waiting until every replica of serving has generation {changed.generation}")
        await self._long(m.WAIT_FOR_GENERATION, changed, f"wait for generation {changed.generation}")
        return changed.generation

    async def _reject_bundle(self, bundle: str, reason: str) -> None:
        command = m.BundleCommand(self._origin, self._request_id("reject bundle"), bundle, reason=reason)
        await self._command(m.REJECT_BUNDLE, command, f"reject bundle {bundle[:12]}")

    def _show(self, doing: str) -> None:
        """Say on the workflow's page what is being done."""
        self._doing = doing
        steps = "".join(f"- {step}\n" for step in self._steps)
        traced = f"\ncorrelation id `{self._origin.saga_id}`, trace `{self._origin.traceparent or 'none'}`"
        workflow.set_current_details(f"### {self._title}\n\n{steps}\n**Now:** {doing}\n{traced}")

    def _state_is(self, state: str) -> None:
        self._state = state
        workflow.upsert_search_attributes([STATE.value_set(state)])

    # How it ends

    async def _unless_rejected(self, work: Callable[[], Awaitable[str]]) -> str:
        working = asyncio.ensure_future(work())
        rejection = asyncio.ensure_future(workflow.wait_condition(lambda: self._rejected is not None))
        try:
            await workflow.wait([working, rejection], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._stop(working, rejection)
            raise
        await self._stop(working, rejection)
        if not self._stopping:
            return working.result()
        decision = self._rejected
        assert decision is not None
        raise Stopped(f"stopped by {decision.actor}: {decision.reason or 'no reason given'}")

    async def _stop(self, working: asyncio.Future[str], rejection: asyncio.Future[None]) -> None:
        self._stopping = not working.done()
        for task in (working, rejection):
            task.cancel()
        # What was on its way arrives before anything is undone.
        await asyncio.gather(working, rejection, return_exceptions=True)

    async def _compensate(self, reason: str, evidence: str) -> m.SagaEnd:
        self._decided = True
        self._state_is("undoing")
        left = []
        for what, undo in reversed(self._undo):
            self._show(f"undoing: {what}, because {reason}")
            try:
                await undo()
            except ActivityError as error:
                # A refusal stays a refusal; the rest must be undone all the same.
                left.append(f"could not {what}: {_words(error)}")
        undone = ", ".join(what for what, _ in reversed(self._undo)) or "there was nothing to undo"
        try:
            await self._advance("undone", "; ".join([f"{reason} ({undone})", *left]), evidence=evidence)
        except ActivityError as error:
            self._steps.append(f"**undone**: not recorded: {_words(error)}")
        return await self._finish(completed=False, outcome="; ".join([reason, *left]))

    async def _finish(self, *, completed: bool, outcome: str) -> m.SagaEnd:
        self._decided = True
        state = "completed" if completed else "compensated"
        try:
            await self._record_end(completed, outcome)
        except ActivityError as error:
            self._steps.append(f"**end**: not recorded: {_words(error)}")
        self._state_is(state)
        self._show(f"nothing: {state}. {outcome}")
        await workflow.wait_condition(workflow.all_handlers_finished)
        return m.SagaEnd(state, outcome)

    async def _record_end(self, completed: bool, outcome: str) -> None:
        finish = m.Finish(self._origin, self._request_id("finish"), completed, outcome)
        await self._command(m.FINISH_SAGA, finish, f"finish: {'completed' if completed else 'compensated'}")


def describe(arms: list[m.Arm]) -> str:
    """Return the arms in plain words."""
    return ", ".join(
        f"{arm.role} {arm.bundle[:12]}" + (f" with {arm.share:.0%}" if arm.role == "challenger" else "") for arm in arms
    )


async def _protected(end: Awaitable[m.SagaEnd]) -> m.SagaEnd:
    """Go through with the end of a saga even when the workflow is cancelled meanwhile."""
    task = asyncio.ensure_future(end)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _words(error: ActivityError) -> str:
    return str(error.cause or error)
