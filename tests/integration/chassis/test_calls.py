"""What happens around every RPC, through a real server and real channels."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]

from chassis.channels import open_service_channel
from chassis.context import Caller, acting_as, caller, deadline_in, time_left
from chassis.errors import Conflict, InvalidArgument, Overloaded
from chassis.server import Harness, start
from chassis.settings import ServiceSettings
from chassis.statuses import error_of
from chassis.telemetry import Telemetry
from lineal.channel import open_channel
from tests.integration.chassis.demo import KINDS, NAME, Behavior, add, call, decode, encode

# What is sent of a deadline has three digits or so, and gRPC rounds it up.
_ROUNDED = 1.01


@asynccontextmanager
async def serving(folder: Path, answer: Behavior, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    async def build(harness: Harness) -> None:
        add(harness, answer)

    async with start("echo", ServiceSettings(port=0, data_dir=folder, **settings), build) as running:
        telemetry = Telemetry("client", folder / "client")
        async with open_service_channel(running.address, service="tester", telemetry=telemetry) as channel:
            yield channel
        telemetry.shutdown()


def spans(path: Path) -> list[dict[str, Any]]:
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    return [s for r in requests for g in r["resourceSpans"] for scope in g["scopeSpans"] for s in scope["spans"]]


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_call_is_answered(tmp_path: Path, kind: str) -> None:
    async def answer(request: str) -> str:
        return request.upper()

    async with serving(tmp_path, answer) as channel:
        assert await call(channel, kind, "a,b") == "A,B"


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_call_shows_errors_by_category(tmp_path: Path, kind: str) -> None:
    async def answer(request: str) -> str:
        raise Conflict("somebody was faster")

    async with serving(tmp_path, answer) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, kind, "a")
    assert raised.value.code() is grpc.StatusCode.ABORTED
    assert raised.value.details() == "somebody was faster"
    assert isinstance(error_of(raised.value), Conflict)
    status: Any = rpc_status.from_call(raised.value)
    info = ErrorInfo()
    status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("CONFLICT", "lineal")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_call_hides_what_it_did_not_expect(tmp_path: Path, kind: str) -> None:
    async def answer(request: str) -> str:
        raise ValueError("secret")

    async with serving(tmp_path, answer) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised, acting_as(Caller("person:ada", "corr-7", "")):
            await call(channel, kind, "a")
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(raised.value)
    assert "corr-7" in str(raised.value.details())


async def test_what_a_service_behind_it_refused_is_refused(tmp_path: Path) -> None:
    async def refuse(request: str) -> str:
        raise Conflict("somebody was faster")

    async with serving(tmp_path / "behind", refuse) as behind:

        async def answer(request: str) -> str:
            return await call(behind, "Unary", request)

        async with serving(tmp_path / "front", answer) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(channel, "Unary", "a")
    assert raised.value.code() is grpc.StatusCode.ABORTED
    assert raised.value.details() == "somebody was faster"


async def test_field_violations_arrive_at_the_other_service(tmp_path: Path) -> None:
    async def answer(request: str) -> str:
        from chassis.errors import FieldViolation

        raise InvalidArgument("bad", [FieldViolation("name", "must be there")])

    async with serving(tmp_path, answer) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, "Unary", "a")
    meant = error_of(raised.value)
    assert isinstance(meant, InvalidArgument)
    assert meant.violations[0].field == "name"


async def test_shed_work_is_not_retried(tmp_path: Path) -> None:
    calls = 0

    async def answer(request: str) -> str:
        nonlocal calls
        calls += 1
        raise Overloaded("too much")

    async with serving(tmp_path, answer) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, "Unary", "a")
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert calls == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_the_caller_travels_with_the_call(tmp_path: Path, kind: str) -> None:
    seen: list[Caller] = []

    async def answer(request: str) -> str:
        seen.append(caller())
        return ""

    async with serving(tmp_path, answer) as channel:
        with acting_as(Caller("person:ada", "corr", "cause")):
            await call(channel, kind, "a")
        await call(channel, kind, "a")
    assert seen[0] == Caller("person:ada", "corr", "cause")
    assert seen[1].actor == "service:tester"


async def test_a_call_without_a_deadline_gets_one_and_it_is_passed_on(tmp_path: Path) -> None:
    left: list[float | None] = []

    async def answer(request: str) -> str:
        left.append(time_left())
        return ""

    async with serving(tmp_path, answer) as channel:
        await call(channel, "Unary", "a")
        with deadline_in(5):
            await call(channel, "Unary", "a")
        await call(channel, "Download", "a")
    assert left[0] is not None
    assert 25 < left[0] <= 30 * _ROUNDED
    assert left[1] is not None
    assert 4 < left[1] < 5
    assert left[2] is None


async def test_a_stranger_without_a_deadline_is_cut_off_by_the_service(tmp_path: Path) -> None:
    async def answer(request: str) -> str:
        await asyncio.Event().wait()
        return ""

    async def build(harness: Harness) -> None:
        add(harness, answer)

    settings = ServiceSettings(port=0, data_dir=tmp_path, deadline_seconds=0.2)
    async with start("echo", settings, build) as running, grpc.aio.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, "Unary", "a")
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_is_given_up_is_cancelled_in_the_service(tmp_path: Path, kind: str) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(request: str) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    async with serving(tmp_path, answer) as channel, asyncio.timeout(10):
        calling = asyncio.create_task(call(channel, kind, "a"))
        await begun.wait()
        calling.cancel()
        await cancelled.wait()
        await asyncio.gather(calling, return_exceptions=True)


async def test_spans_follow_the_conventions_and_join_into_one_trace(tmp_path: Path) -> None:
    async def answer(request: str) -> str:
        if request == "bad":
            raise Conflict("no")
        return ""

    async with serving(tmp_path, answer) as channel:
        await call(channel, "Unary", "good")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, "Unary", "bad")
    good, bad = spans(tmp_path / "telemetry" / "echo-spans.jsonl")
    client_good, _ = spans(tmp_path / "client" / "client-spans.jsonl")
    assert good["name"] == f"{NAME}/Unary"
    assert (good["traceId"], good["parentSpanId"]) == (client_good["traceId"], client_good["spanId"])
    assert (good["kind"], client_good["kind"]) == (2, 3)
    found = attributes(good)
    assert (found["rpc.system.name"], found["rpc.method"]) == ("grpc", f"{NAME}/Unary")
    assert found["rpc.response.status_code"] == "OK"
    assert attributes(bad)["rpc.response.status_code"] == "ABORTED"
    assert attributes(bad)["error.type"] == "ABORTED"
    metrics = json.loads((tmp_path / "telemetry" / "echo-metrics.jsonl").read_text().splitlines()[-1])
    [metric] = metrics["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    assert (metric["name"], metric["unit"]) == ("rpc.server.call.duration", "s")
    codes = {attributes(point)["rpc.response.status_code"] for point in metric["histogram"]["dataPoints"]}
    assert codes == {"OK", "ABORTED"}


async def test_the_blocking_channel_of_the_sdk_says_who_calls_and_until_when(tmp_path: Path) -> None:
    seen: list[tuple[str, float | None]] = []

    async def answer(request: str) -> str:
        seen.append((caller().actor, time_left()))
        return request

    async def build(harness: Harness) -> None:
        add(harness, answer)

    def talk(address: str) -> None:
        with open_channel(address, deadline_seconds=9, metadata=[("x-lineal-actor", "person:bob")]) as channel:
            assert channel.unary_unary(f"/{NAME}/Unary", encode, decode)("a") == "a"
            assert list(channel.unary_stream(f"/{NAME}/Download", encode, decode)("a,b")) == ["a", "b"]

    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path), build) as running:
        await asyncio.to_thread(talk, running.address)
    assert [actor for actor, _ in seen] == ["person:bob"] * 3
    assert seen[0][1] is not None
    assert 8 < seen[0][1] <= 9 * _ROUNDED
