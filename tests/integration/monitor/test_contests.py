"""Contested decisions: frozen evidence, a queue, and a person who decides and has no part in it."""

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from lineal import merkle
from lineal.api.lineage.v1.projection_service_pb2 import VerifyProjectionsRequest
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceStub
from lineal.api.monitor.v1 import contest_service_pb2 as api
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.contest_pb2 import Contest, ContestEvidence, ContestState
from lineal.api.monitor.v1.events_pb2 import ContestResolved, PredictionContested, SegmentSealed
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.model_pb2 import Model
from lineal.client import Client
from tests.integration.serving.credit import Bank, by, policy, rows
from tests.integration.test_predictions import rid

pytestmark = pytest.mark.timeout(300)
OPEN, UPHELD, OVERRIDDEN = (
    ContestState.CONTEST_STATE_OPEN,
    ContestState.CONTEST_STATE_UPHELD,
    ContestState.CONTEST_STATE_OVERRIDDEN,
)


class Court(Bank):
    """A bank whose decisions are contested."""

    def __init__(self, suite: Any) -> None:
        super().__init__(suite)
        self.contests = suite.stub("monitor", "contest")
        self.log = suite.servers["monitor"].harness.log

    async def decided(self) -> str:
        """Return the id of a recorded prediction."""
        answer = await self.answers(rows(1, 7))
        await self.recorded(1)
        return str(answer.prediction_ids[0])

    async def contest(self, prediction: str, who: str = "joan", reason: str = "wrong income", **fields: Any) -> Any:
        request = api.ContestPredictionRequest(
            **{"request_id": rid(), "prediction_id": prediction, "reason": reason} | fields
        )
        return await self.contests.ContestPrediction(request, metadata=by(who), timeout=60)

    async def resolve(self, contest: str, who: str = "grace", reason: str = "payslip seen", **fields: Any) -> Any:
        values: dict[str, Any] = {"contest_id": contest, "resolution": OVERRIDDEN, "reason": reason}
        request = api.ResolveContestRequest(**{"request_id": rid()} | values | fields)
        return await self.contests.ResolveContest(request, metadata=by(who), timeout=60)

    async def explains(self) -> bool:
        """Tell whether serving explains anything now."""
        try:
            await self.explain(rows(1, 7))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return False
        return True

    async def listed(self, **fields: Any) -> list[Contest]:
        return list((await self.contests.ListContests(api.ListContestsRequest(**fields), timeout=60)).contests)


@pytest.fixture
async def court(suite: Any) -> Court:
    suite.expect("serving")
    await suite.start("lineage", "registry", "monitor", "serving")
    return Court(suite)


async def test_a_contested_decision_keeps_its_evidence_and_is_resolved_by_another_person(court: Court) -> None:
    bundle = await court.open(policy())
    prediction = await court.decided()
    contested = await court.contest(prediction)
    contest = contested.contest
    assert (contest.contest_id, contest.state, contest.contested_by) == (f"{prediction}/1", OPEN, "person:joan")
    assert (contest.endpoint, contest.model, contest.bundle_digest) == ("shop", "shop", bundle)
    assert contest.due_time.ToDatetime() > contest.contest_time.ToDatetime()
    found = await court.contests.GetContest(api.GetContestRequest(contest_id=contest.contest_id))
    assert found.contest == contest
    await assert_frozen(court, contest, found.evidence, prediction)

    # Contested again it is the same contest, whoever does, and by the same command the same answer.
    twice = await court.contest(prediction, "jill", "I think so, too")
    assert (twice.contest, twice.position) == (contest, contested.position)
    assert await court.listed(state=OPEN) == [contest]
    resolved = await court.resolve(contest.contest_id)
    done = resolved.contest
    assert (done.state, done.resolved_by, done.resolution_reason) == (OVERRIDDEN, "person:grace", "payslip seen")
    assert done.evidence_digest == contest.evidence_digest
    assert await court.listed(state=OPEN) == []
    assert await court.listed(state=OVERRIDDEN, endpoint="shop") == [done]
    assert await court.listed(endpoint="other") == []
    # As it was before, and before that.
    assert await court.listed(as_of_position=contested.position) == [contest]
    assert await court.listed(as_of_position=contested.position - 1) == []
    assert await court.listed(as_of_time=done.resolve_time) == [done]

    await assert_told(court, contest)
    second = await court.contest(prediction)
    assert second.contest.contest_id == f"{prediction}/2"
    await court.resolve(second.contest.contest_id, resolution=UPHELD)
    first = await court.listed(page_size=1)
    page = await court.contests.ListContests(api.ListContestsRequest(page_size=1))
    rest = await court.listed(page_size=1, page_token=page.next_page_token)
    assert [(each.contest_id, each.state) for each in (*first, *rest)] == [
        (f"{prediction}/1", OVERRIDDEN),
        (f"{prediction}/2", UPHELD),
    ]
    await assert_rebuilt_alike(court)


async def assert_frozen(court: Court, contest: Contest, evidence: ContestEvidence, prediction: str) -> None:
    """The artifact has the record and its proof to the segment's root in the log, and what serving explains of it."""
    stored = court.suite.artifacts.read(contest.evidence_digest)
    assert hashlib.sha256(stored).hexdigest() == contest.evidence_digest
    assert ContestEvidence.FromString(stored) == evidence
    proof = await court.monitor.GetPredictionProof(monitor_api.GetPredictionProofRequest(prediction_id=prediction))
    assert (evidence.record, evidence.segment_digest, evidence.position) == (
        proof.record,
        proof.segment_digest,
        proof.position,
    )
    sealed = [event for event in await court.log.read_stream("monitor/shop") if event.position == evidence.position]
    (event,) = [each.message for each in sealed]
    assert isinstance(event, SegmentSealed)
    leaf = merkle.leaf_hash(evidence.record)
    root = merkle.root_from_inclusion(leaf, evidence.index, event.leaves, evidence.path)
    assert root.hex() == event.merkle_root
    own = await court.explain(rows(1, 7))
    assert evidence.explanation == own
    assert own.explanations[0].reasons
    assert own.basis.policy_digest
    (told,) = await court.log.read_stream(f"contest/{prediction}")
    assert (told.message.policy_digest, told.message.segment_digest) == (
        own.basis.policy_digest,
        evidence.segment_digest,
    )


async def assert_told(court: Court, contest: Contest) -> None:
    """All of it are events, and a command that is sent again is not one more."""
    stream = f"contest/{contest.prediction_id}"
    events = await court.log.read_stream(stream)
    assert [type(event.message) for event in events] == [PredictionContested, ContestResolved]
    first, second = events
    again = await court.contest(contest.prediction_id, request_id=first.request_id)
    assert (again.contest.contest_id, again.position) == (contest.contest_id, first.position)
    again = await court.resolve(contest.contest_id, request_id=second.request_id)
    assert (again.contest.state, again.position) == (OVERRIDDEN, second.position)
    assert len(await court.log.read_stream(stream)) == 2


async def assert_rebuilt_alike(court: Court) -> None:
    """The table is what the log makes of it."""
    async with grpc.aio.insecure_channel(court.suite.address("monitor")) as channel:
        answer = await ProjectionServiceStub(channel).VerifyProjections(VerifyProjectionsRequest(), timeout=60)
    (found,) = [each for each in answer.verifications if each.projection.name == "contests"]
    assert found.rows == 2
    assert found.live_digest == found.rebuilt_digest


async def test_who_contested_or_answers_for_the_model_does_not_resolve(court: Court) -> None:
    # Declared by ada, and from now on the model is owned by owen.
    await court.open(policy())
    model = Model(name="shop", owner="owen", explanations=policy())
    await court.registry.RegisterModel(
        registry_api.RegisterModelRequest(request_id=rid(), model=model), metadata=by("ada")
    )
    contest = (await court.contest(await court.decided())).contest.contest_id
    for who in ("joan", "ada", "owen"):
        with pytest.raises(grpc.aio.AioRpcError, match="another person has to resolve") as caught:
            await court.resolve(contest, who)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.aio.AioRpcError, match="a person has to resolve"):
        await court.contests.ResolveContest(
            api.ResolveContestRequest(request_id=rid(), contest_id=contest, resolution=UPHELD, reason="so it is"),
            metadata=[("x-lineal-actor", "service:bridge")],
        )
    (still,) = await court.listed()
    assert still.state == OPEN
    await court.resolve(contest, "grace", resolution=UPHELD)
    with pytest.raises(grpc.aio.AioRpcError, match="was upheld already") as caught:
        await court.resolve(contest, "linus")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_what_is_unknown_or_without_a_reason_is_refused(court: Court) -> None:
    await court.open(policy())
    prediction = await court.decided()
    missing, invalid = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
    for attempt, code, says in (
        (court.contest(f"{rid()}/0"), missing, "never recorded here; give an id that Predict answered"),
        (court.contest(prediction, reason=" "), invalid, "need a reason"),
        (court.resolve(f"{prediction}/1"), missing, "`lineal contests` lists"),
        (court.resolve("nonsense"), missing, "`lineal contests` lists"),
        (court.contests.GetContest(api.GetContestRequest(contest_id="x/1")), missing, "`lineal contests` lists"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
            await attempt
        assert caught.value.code() is code
    assert await court.listed() == []


async def test_a_decision_may_be_contested_while_nobody_can_explain_it(suite: Any) -> None:
    suite.expect("serving")
    await suite.start("lineage", "registry")
    await suite.start("monitor", contest_days=0)
    await suite.start("serving")
    court = Court(suite)
    await court.open(policy())
    prediction = await court.decided()
    request = registry_api.SuspendEndpointRequest(request_id=rid(), name="shop", reason="looked into")
    await court.registry.SuspendEndpoint(request)
    async with asyncio.timeout(60):
        while await court.explains():
            pass
    contest = (await court.contest(prediction)).contest
    evidence = (await court.contests.GetContest(api.GetContestRequest(contest_id=contest.contest_id))).evidence
    assert "suspended" in evidence.without_explanation
    assert not evidence.HasField("explanation")
    assert not contest.HasField("due_time")
    assert evidence.record


async def run(profile: Path, who: str, *arguments: str) -> tuple[int, str]:
    """Run a command as a person; return its exit code and all that it says."""
    command = [sys.executable, "-m", "lineal.cli", "--connect", str(profile), *arguments]
    environment = os.environ | {"LOGNAME": who, "COLUMNS": "300"}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_decision_is_contested_and_resolved_from_the_command_line(court: Court) -> None:
    await court.open(policy())
    prediction, profile = await court.decided(), court.suite.profile
    code, said = await run(profile, "joan", "contest", prediction, "--reason", "not [my] income")
    assert (code, "person:joan: not [my] income" in said) == (0, True)
    contest = f"{prediction}/1"
    code, said = await run(profile, "joan", "resolve", contest, "override", "--reason", "so I say")
    assert (code, "another person has to resolve" in said) == (1, True)
    code, said = await run(profile, "grace", "contests", contest)
    assert code == 0
    for part in ("decision", "record 0 of segment", "reviewed by person:grace", "income"):
        assert part in said
    code, said = await run(profile, "grace", "contests", contest, "--json")
    assert json.loads(said)["prediction"]["prediction_id"] == prediction
    code, said = await run(profile, "grace", "resolve", contest, "override", "--reason", "payslip", "--json")
    assert (code, json.loads(said)["state"]) == (0, "CONTEST_STATE_OVERRIDDEN")
    code, said = await run(profile, "grace", "contests", "--state", "open")
    assert (code, "nothing yet" in said) == (0, True)
    code, said = await run(profile, "grace", "contests", "--at", "2020-01-01", "--json")
    assert (code, json.loads(said)) == (0, [])

    def ids() -> list[str]:
        with Client(profile) as client:
            return [each.contest_id for each in client.decisions.contests(state="overridden")]

    assert await asyncio.to_thread(ids) == [contest]
