"""Who was champion then, approved by whom, and why: by position and by time."""

import os
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest

from chassis.artifacts import canonical_json
from chassis.clock import SystemClock
from chassis.ids import new_request_id
from chassis.records import to_datetime, to_timestamp
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint, SagaState
from lineal.api.registry.v1.model_pb2 import BundleState, Model
from tests.integration.running import Suite

MICROSECOND = timedelta(microseconds=1)


def by(person: str) -> list[tuple[str, str]]:
    return [("x-lineal-actor", f"person:{person}")]


async def registered(suite: Suite, stub: Any, number: int) -> str:
    digest = suite.artifacts.put(canonical_json({"model": "delay", "files": {}, "number": number}))
    for name, request in (
        ("RegisterBundle", api.RegisterBundleRequest(model="delay", bundle_digest=digest)),
        ("EvaluateGates", api.EvaluateGatesRequest(bundle_digest=digest)),
    ):
        request.request_id = new_request_id()
        await getattr(stub, name)(request)
    return digest


async def crown(stub: Any, digest: str, generation: int, person: str, reason: str) -> int:
    arm = Arm(bundle_digest=digest, role=ArmRole.ARM_ROLE_CHAMPION)
    request = api.ChangeArmsRequest(
        request_id=new_request_id(), endpoint="delays", generation=generation, arms=[arm], reason=reason
    )
    return int((await stub.ChangeArms(request, metadata=by(person))).position)


async def approve(stub: Any, digest: str, person: str, reason: str) -> int:
    request = api.ApproveBundleRequest(request_id=new_request_id(), bundle_digest=digest, reason=reason)
    return int((await stub.ApproveBundle(request, metadata=by(person))).position)


async def prepared(suite: Suite) -> Any:
    await suite.start("lineage", "registry")
    stub = suite.stub("registry")
    await stub.RegisterModel(api.RegisterModelRequest(request_id=new_request_id(), model=Model(name="delay")))
    endpoint = Endpoint(name="delays", model="delay")
    await stub.RegisterEndpoint(api.RegisterEndpointRequest(request_id=new_request_id(), endpoint=endpoint))
    return stub


async def test_who_was_champion_approved_by_whom_and_why(suite: Suite) -> None:
    stub = await prepared(suite)
    old, new = [await registered(suite, stub, number) for number in (1, 2)]
    await approve(stub, old, "ada", "looks right on March")
    first = await crown(stub, old, 0, "ada", "first release")
    await approve(stub, new, "grace", "better on summer storms")
    second = await crown(stub, new, 1, "linus", "summer")

    now = await stub.GetEndpoint(api.GetEndpointRequest(name="delays"))
    assert (now.champion.bundle_digest, now.champion.position) == (new, second)
    assert (now.champion.approved_by, now.champion.approval_reason) == ("person:grace", "better on summer storms")
    assert (now.champion.actor, now.champion.reason) == ("person:linus", "summer")

    start = to_datetime(now.champion.start_time)
    for then in (
        api.GetEndpointRequest(name="delays", as_of_position=first),
        api.GetEndpointRequest(name="delays", as_of_position=second - 1),
        api.GetEndpointRequest(name="delays", as_of_time=to_timestamp(start - MICROSECOND)),
    ):
        past = await stub.GetEndpoint(then)
        assert (past.champion.bundle_digest, past.generation) == (old, 1)
        assert (past.champion.approved_by, past.champion.approval_reason) == ("person:ada", "looks right on March")
        assert past.previous_champion_digest == ""
    at = await stub.GetEndpoint(api.GetEndpointRequest(name="delays", as_of_time=to_timestamp(start)))
    assert at == now


async def test_what_came_later_is_not_known_then(suite: Suite) -> None:
    stub = await prepared(suite)
    digest = await registered(suite, stub, 1)
    approval = await approve(stub, digest, "ada", "good")
    before = await stub.GetBundle(api.GetBundleRequest(digest=digest, as_of_position=approval - 1))
    assert (before.bundle.state, before.bundle.decided_by) == (BundleState.BUNDLE_STATE_GATED, "")
    bare = await stub.GetEndpoint(api.GetEndpointRequest(name="delays", as_of_position=approval))
    assert not bare.HasField("champion")
    for wrong, code in (
        (api.GetEndpointRequest(name="delays", as_of_position=1), grpc.StatusCode.NOT_FOUND),
        (
            api.GetEndpointRequest(name="delays", as_of_position=9, as_of_time=to_timestamp(SystemClock().now())),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.GetEndpoint(wrong)
        assert failed.value.code() == code


async def test_a_saga_that_crowned_names_who_asked_and_who_approved(suite: Suite) -> None:
    stub = await prepared(suite)
    old, new = [await registered(suite, stub, number) for number in (1, 2)]
    for digest in (old, new):
        await approve(stub, digest, "ada", "gates held")
    await crown(stub, old, 0, "ada", "first release")
    release = api.RequestReleaseRequest(
        request_id=new_request_id(), endpoint="delays", bundle_digest=new, reason="a better one"
    )
    saga = (await stub.RequestRelease(release, metadata=by("linus"))).saga_id
    approval = api.ApproveSagaRequest(
        request_id=new_request_id(), endpoint="delays", saga_id=saga, reason="canary was clean"
    )
    await stub.ApproveSaga(approval, metadata=by("grace"))
    arms = api.ChangeArmsRequest(
        request_id=new_request_id(),
        endpoint="delays",
        generation=1,
        arms=[Arm(bundle_digest=new, role=ArmRole.ARM_ROLE_CHAMPION)],
        saga_id=saga,
        reason="promoted",
    )
    await stub.ChangeArms(arms, metadata=[("x-lineal-actor", f"saga:{saga}")])
    found = (await stub.GetEndpoint(api.GetEndpointRequest(name="delays"))).champion
    assert (found.actor, found.saga_id, found.reason) == (f"saga:{saga}", saga, "promoted")
    assert (found.requested_by, found.request_reason) == ("person:linus", "a better one")
    assert (found.approved_by, found.approval_reason) == ("person:grace", "canary was clean")


async def test_a_saga_and_a_model_are_as_they_were(suite: Suite) -> None:
    stub = await prepared(suite)
    digest = await registered(suite, stub, 1)
    await approve(stub, digest, "ada", "good")
    release = api.RequestReleaseRequest(
        request_id=new_request_id(), endpoint="delays", bundle_digest=digest, reason="a better one"
    )
    asked = await stub.RequestRelease(release, metadata=by("linus"))
    advance = api.AdvanceSagaRequest(
        request_id=new_request_id(), endpoint="delays", saga_id=asked.saga_id, step="shadow", finding="agrees"
    )
    advance.evidence_digest = suite.artifacts.put(b"a report of long ago")
    os.utime(suite.artifacts.path(advance.evidence_digest), (0, 0))
    await stub.AdvanceSaga(advance)
    # What the step names is young again, so that it is not collected as if nothing named it.
    assert not suite.artifacts.remove(advance.evidence_digest, SystemClock().now() - timedelta(hours=1))
    finish = api.FinishSagaRequest(
        request_id=new_request_id(), endpoint="delays", saga_id=asked.saga_id, state=SagaState.SAGA_STATE_COMPLETED
    )
    end = (await stub.FinishSaga(finish)).position
    now = (await stub.GetSaga(api.GetSagaRequest(saga_id=asked.saga_id))).saga
    last = (await stub.GetSaga(api.GetSagaRequest(saga_id=asked.saga_id, as_of_position=end))).saga
    assert (last, now.state) == (now, SagaState.SAGA_STATE_COMPLETED)
    before = (await stub.GetSaga(api.GetSagaRequest(saga_id=asked.saga_id, as_of_position=end - 1))).saga
    assert (before.state, len(before.steps)) == (SagaState.SAGA_STATE_ACTIVE, 1)
    first = (await stub.GetSaga(api.GetSagaRequest(saga_id=asked.saga_id, as_of_time=before.request_time))).saga
    assert (first.requested_by, len(first.steps)) == ("person:linus", 0)
    with pytest.raises(grpc.aio.AioRpcError, match="there is no saga"):
        await stub.GetSaga(api.GetSagaRequest(saga_id=asked.saga_id, as_of_position=asked.position - 1))

    changed = api.RegisterModelRequest(request_id=new_request_id(), model=Model(name="delay", description="other"))
    position = (await stub.RegisterModel(changed)).position
    for asked_for, description in ((position, "other"), (position - 1, ""), (0, "other")):
        found = await stub.GetModel(api.GetModelRequest(name="delay", as_of_position=asked_for))
        assert found.model.description == description


async def test_lists_are_as_they_were(suite: Suite) -> None:
    stub = await prepared(suite)
    old, new = [await registered(suite, stub, number) for number in (1, 2)]
    await approve(stub, new, "ada", "good")
    approval = await approve(stub, old, "ada", "good")
    first = await crown(stub, old, 0, "ada", "first release")
    release = api.RequestReleaseRequest(
        request_id=new_request_id(), endpoint="delays", bundle_digest=new, reason="better"
    )
    asked = await stub.RequestRelease(release)
    declared = api.RegisterModelRequest(request_id=new_request_id(), model=Model(name="fares"))
    last = (await stub.RegisterModel(declared)).position

    async def then(**moment: Any) -> tuple[list[str], list[Any], list[int], list[str]]:
        models = (await stub.ListModels(api.ListModelsRequest(**moment))).models
        bundles = (await stub.ListBundles(api.ListBundlesRequest(**moment))).bundles
        endpoints = (await stub.ListEndpoints(api.ListEndpointsRequest(**moment))).endpoints
        sagas = (await stub.ListSagas(api.ListSagasRequest(**moment))).sagas
        return (
            [model.name for model in models],
            [bundle.state for bundle in bundles],
            [endpoint.generation for endpoint in endpoints],
            [saga.saga_id for saga in sagas],
        )

    ready, gated = BundleState.BUNDLE_STATE_RELEASABLE, BundleState.BUNDLE_STATE_GATED
    # Forwards, back, and forwards again: the past is not where the reader before has left it.
    assert await then(as_of_position=last) == (["delay", "fares"], [ready, ready], [1], [asked.saga_id])
    assert await then(as_of_position=first) == (["delay"], [ready, ready], [1], [])
    assert await then(as_of_position=approval - 1) == (["delay"], [ready, gated], [0], [])
    assert await then(as_of_position=asked.position) == (["delay"], [ready, ready], [1], [asked.saga_id])
    start = to_datetime((await stub.GetEndpoint(api.GetEndpointRequest(name="delays"))).champion.start_time)
    assert await then(as_of_time=to_timestamp(start - MICROSECOND)) == (["delay"], [ready, ready], [0], [])
    assert await then(as_of_time=to_timestamp(start - timedelta(days=1))) == ([], [], [], [])
    with pytest.raises(grpc.aio.AioRpcError, match="exclude each other"):
        await then(as_of_position=1, as_of_time=to_timestamp(start))
    # Who notices first that the time is over, client or server, is chance.
    with pytest.raises(grpc.aio.AioRpcError, match=r"is asked for|Deadline Exceeded"):
        await stub.ListModels(api.ListModelsRequest(as_of_position=last + 1), timeout=0.5)
