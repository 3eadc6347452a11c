"""The health check of containers."""

import asyncio
from pathlib import Path

from chassis.errors import Unavailable
from chassis.probe import probe
from chassis.server import Harness, start
from chassis.settings import ServiceSettings


async def test_probe_finds_what_serves(tmp_path: Path) -> None:
    async def build(harness: Harness) -> None:
        pass

    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path), build) as running:
        await asyncio.wait_for(running.harness.health.round(), 5)
        assert await asyncio.to_thread(probe, running.address) is None


async def test_probe_says_what_is_wrong(tmp_path: Path) -> None:
    async def build(harness: Harness) -> None:
        async def check() -> None:
            raise Unavailable("the dog ate it")

        harness.add_check("homework", check)

    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path), build) as running:
        assert await asyncio.to_thread(probe, running.address) == "NOT_SERVING"
        address = running.address
    assert "UNAVAILABLE" in str(await asyncio.to_thread(probe, address))
