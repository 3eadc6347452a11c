"""Two workers on one port: restarted in turn under load, no request fails.

The long run: `LINEAL_TEST_REQUESTS=10000 python -m pytest` on this file.
"""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pandas as pd
import pytest

from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.client import Client
from lineal.profile import Profile
from tests.integration.lineage.processes import free_port
from tests.integration.serving.processes import service
from tests.integration.test_predictions import World, champion, world

__all__ = ["world"]
pytestmark = pytest.mark.timeout(1800)
REQUESTS = int(os.environ.get("LINEAL_TEST_REQUESTS", "1000"))
CLIENTS = 4


@asynccontextmanager
async def worker(world: World, number: int, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker until the end of the block, which it has to reach by a drain."""
    own = {"LINEAL_SERVING_WORKER": str(number), "LINEAL_SERVING_REPLICA_ID": f"worker-{number}"}
    async with service("serving", world.suite.folder, world.suite.profile, port, **own) as process:
        await leased(world, number, process)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 60) == 0


async def leased(world: World, number: int, process: asyncio.subprocess.Process) -> None:
    """Wait until registry knows that a worker serves the newest arms."""
    async with asyncio.timeout(60):
        while True:
            assert process.returncode is None, f"worker {number} ended with {process.returncode}; its log is beside"
            replicas = (await world.registry.ListReplicas(registry_api.ListReplicasRequest())).replicas
            if any(each.replica_id == f"worker-{number}" and each.generations.get("shop") for each in replicas):
                return
            await asyncio.sleep(0.1)  # between two looks at another process


async def test_workers_are_restarted_in_turn_and_no_request_fails(world: World, tmp_path: Path) -> None:
    await world.arms(champion(await world.bundle(1)))
    port = free_port()
    profile = tmp_path / "workers.yaml"
    Profile({"serving": f"127.0.0.1:{port}"}).save(profile)
    answered: list[str] = []
    restarted = threading.Event()

    def ask() -> None:
        while len(answered) < REQUESTS or not restarted.is_set():
            # A connection for every few, as short-lived clients have, so that both workers get some.
            with Client(profile) as client:
                rows = pd.DataFrame({"amount": [0.5] * 20, "shop": ["a"] * 20})
                answered.extend(client.predict("shop", rows, key="shop")["prediction_id"])

    async with AsyncExitStack() as workers:
        running = [await workers.enter_async_context(worker(world, number, port)) for number in (1, 2)]
        clients = [asyncio.create_task(asyncio.to_thread(ask)) for _ in range(CLIENTS)]
        try:
            for number, old in enumerate(running, start=3):
                before = len(answered)
                old.send_signal(signal.SIGTERM)
                assert await old.wait() == 0
                await workers.enter_async_context(worker(world, number, port))
                assert len(answered) > before
        finally:
            restarted.set()
            await asyncio.gather(*clients)
    assert len(set(answered)) == len(answered) >= REQUESTS
    folders = [path.name for path in world.suite.folder.glob("serving-*")]
    assert sorted(folders) == ["serving-1", "serving-2", "serving-3", "serving-4"]
