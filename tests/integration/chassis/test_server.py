"""The life of a service."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from chassis.channels import open_service_channel
from chassis.errors import Unavailable
from chassis.server import CannotStart, Harness, start
from chassis.settings import ServiceSettings
from chassis.telemetry import Telemetry
from lineal.channel import open_channel
from lineal.profile import Profile
from tests.integration.chassis.demo import NAME, add, call, decode, encode

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def echo(request: str) -> str:
    return request


async def build_echo(harness: Harness) -> None:
    add(harness, echo)


async def health_becomes(address: str, status: int, service: str = "") -> None:
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(10):
        stub = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest(service=service))
        async for response in watching:
            if response.status == status:
                watching.cancel()
                return


async def test_health_is_that_of_the_checks(tmp_path: Path) -> None:
    ready = True

    async def check() -> None:
        if not ready:
            raise Unavailable("the dog ate it")

    async def build(harness: Harness) -> None:
        add(harness, echo)
        harness.add_check("homework", check)

    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path), build) as running:
        for service in ("", NAME):
            await health_becomes(running.address, SERVING, service)
        ready = False
        await health_becomes(running.address, NOT_SERVING, NAME)
        ready = True
        await health_becomes(running.address, SERVING, NAME)


@pytest.mark.parametrize("dev", [True, False])
async def test_reflection_is_there_in_dev_only(tmp_path: Path, dev: bool) -> None:
    async def listed(address: str) -> list[str]:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for response in stub.ServerReflectionInfo(iter([request])):
                return [service.name for service in response.list_services_response.service]
        return []

    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path, dev=dev), build_echo) as running:
        if dev:
            assert NAME in await listed(running.address)
        else:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await listed(running.address)
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_already_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"127\.0\.0\.1:{port} is already in use; .* set LINEAL_\w*PORT"):
            async with start("echo", ServiceSettings(port=port, data_dir=tmp_path), build_echo):
                pass


async def test_only_loopback_is_listened_on_unless_it_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="LINEAL_ALLOW_INSECURE_BIND=1"):
        async with start("echo", ServiceSettings(port=0, host="0.0.0.0", data_dir=tmp_path), build_echo):
            pass
    allowed = ServiceSettings(port=0, host="0.0.0.0", data_dir=tmp_path, allow_insecure_bind=True)
    async with start("echo", allowed, build_echo) as running:
        assert running.address.startswith("0.0.0.0:")


async def test_one_data_folder_has_one_process_per_service(tmp_path: Path) -> None:
    settings = ServiceSettings(port=0, data_dir=tmp_path)
    async with start("echo", settings, build_echo):
        with pytest.raises(CannotStart, match="another echo runs"):
            async with start("echo", settings, build_echo):
                pass
    async with start("echo", settings, build_echo):
        pass


async def test_a_background_task_that_dies_is_known(tmp_path: Path) -> None:
    async def die() -> None:
        raise RuntimeError("out of luck")

    async def build(harness: Harness) -> None:
        harness.add_task("gambler", die)

    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path), build) as running, asyncio.timeout(10):
        assert str(await running.failed) == "out of luck"


async def test_resources_are_closed_in_reverse_order_after_the_last_call(tmp_path: Path) -> None:
    order: list[str] = []
    begun = asyncio.Event()

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[str]:
        yield name
        order.append(f"closed {name}")

    async def slow(request: str) -> str:
        begun.set()
        await asyncio.sleep(0.2)
        order.append("answered")
        return "done"

    async def build(harness: Harness) -> None:
        add(harness, slow)
        assert await harness.enter(resource("first")) == "first"
        await harness.enter(resource("second"))

    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path), build) as running:
        channel = grpc.aio.insecure_channel(running.address)
        calling = asyncio.create_task(call(channel, "Unary", "a"))
        await begun.wait()
    assert await calling == "done"
    await channel.close()
    assert order == ["answered", "closed second", "closed first"]


async def test_services_find_each_other_by_the_profile(tmp_path: Path) -> None:
    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path), build_echo) as running:
        profile = tmp_path / "profile.yaml"
        Profile({"ingest": running.address}).save(profile)

        async def forward(request: str) -> str:
            return await call(other.harness.channel("ingest"), "Unary", request)

        async def build(harness: Harness) -> None:
            add(harness, forward)

        settings = ServiceSettings(port=0, data_dir=tmp_path / "other", profile=profile)
        async with start("other", settings, build) as other, grpc.aio.insecure_channel(other.address) as channel:
            assert await call(channel, "Unary", "through") == "through"
            assert other.harness.channel("ingest") is other.harness.channel("ingest")


SCRIPT = """
import asyncio, os, sys
from chassis.server import run
from chassis.settings import ServiceSettings
from tests.integration.chassis.demo import add

async def answer(request):
    if request == "die":
        asyncio.get_running_loop().call_soon(doom.set)
    return request

async def build(harness):
    global doom
    doom = asyncio.Event()
    async def die():
        await doom.wait()
        raise RuntimeError("doomed")
    add(harness, answer)
    harness.add_task("fate", die)
    if os.environ.get("ECHO_NEVER_STARTS"):
        print("building", file=sys.stderr, flush=True)
        await asyncio.Event().wait()

run("echo", ServiceSettings(), build)
"""


class Process:
    """The echo service as a process of its own."""

    def __init__(self, folder: Path, port: int, arguments: tuple[str, ...] = ()) -> None:
        self.folder, self.port, self.arguments = folder, port, arguments

    async def __aenter__(self) -> "Process":
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SCRIPT,
            *self.arguments,
            env=os.environ
            | {"LINEAL_PORT": str(self.port), "LINEAL_DATA_DIR": str(self.folder), "LINEAL_DRAIN_SECONDS": "0"},
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def listens(self) -> str:
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            if found := re.search(r"listens on ([\d.:]+)", line):
                return found[1]
        raise AssertionError("it ended before it listened")

    async def ended(self) -> tuple[int, str]:
        async with asyncio.timeout(20):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


async def test_sigterm_drains_and_exits_with_zero(tmp_path: Path) -> None:
    async with Process(tmp_path, 0) as service:
        address = await service.listens()
        async with grpc.aio.insecure_channel(address) as channel:
            assert await call(channel, "Unary", "a") == "a"
        service.process.send_signal(signal.SIGTERM)
        code, errors = await service.ended()
    assert code == 0
    assert "draining" in errors
    assert (tmp_path / "telemetry" / "echo-spans.jsonl").read_text().count(f"{NAME}/Unary") == 2


async def test_sigterm_while_it_starts_exits_with_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHO_NEVER_STARTS", "1")
    async with Process(tmp_path, 0) as service:
        assert service.process.stderr is not None
        assert await service.process.stderr.readline() == b"building\n"
        service.process.send_signal(signal.SIGTERM)
        code, errors = await service.ended()
    assert code == 0
    assert "stopped before it had started" in errors


async def test_a_task_that_dies_ends_the_process_with_one(tmp_path: Path) -> None:
    async with Process(tmp_path, 0) as service:
        async with grpc.aio.insecure_channel(await service.listens()) as channel:
            await call(channel, "Unary", "die")
        code, errors = await service.ended()
    assert code == 1
    assert "doomed" in errors


async def test_a_taken_port_ends_the_process_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        async with Process(tmp_path, other.getsockname()[1]) as service:
            code, errors = await service.ended()
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert "already in use" in errors


async def test_an_unknown_argument_ends_the_process_with_one_line(tmp_path: Path) -> None:
    async with Process(tmp_path, 0, ("rebiuld",)) as service:
        code, errors = await service.ended()
    assert code == 1
    assert "rebiuld" in errors


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("client", ["service", "sdk"])
async def test_a_call_survives_a_service_that_is_killed_and_comes_back_later(tmp_path: Path, client: str) -> None:
    port = free_port()
    telemetry = Telemetry("client", None)
    channel: Any = open_service_channel(f"127.0.0.1:{port}", service="tester", telemetry=telemetry)
    blocking = open_channel(f"127.0.0.1:{port}")

    async def ask(text: str, timeout: float) -> str:
        if client == "service":
            return await call(channel, "Unary", text, timeout=timeout)
        method = blocking.unary_unary(f"/{NAME}/Unary", encode, decode)
        return str(await asyncio.to_thread(method, text, timeout))

    try:
        async with Process(tmp_path, port) as first:
            await first.listens()
            assert await ask("before", 20) == "before"
            first.process.kill()
            await first.process.wait()
        waiting = [asyncio.create_task(ask(f"during {n}", 20)) for n in range(3)]
        done, _ = await asyncio.wait(waiting, timeout=3)
        assert not done
        async with Process(tmp_path, port) as second:
            await second.listens()
            assert await asyncio.gather(*waiting) == ["during 0", "during 1", "during 2"]
    finally:
        await channel.close()
        blocking.close()
        telemetry.shutdown()


async def test_a_call_that_cannot_wait_that_long_ends_at_its_deadline(tmp_path: Path) -> None:
    telemetry = Telemetry("client", None)
    async with open_service_channel(f"127.0.0.1:{free_port()}", service="t", telemetry=telemetry) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, "Unary", "a", timeout=0.5)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    telemetry.shutdown()
