"""Run services for real in this process, each on a free port, finding one another through a profile."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import yaml

from chassis import server
from chassis.server import Build, RunningServer
from chassis.settings import ServiceSettings
from services.lineage.server import build as build_lineage
from services.lineage.settings import Settings as LineageSettings


class Suite:
    """The services that run, by name, on one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.running: dict[str, RunningServer] = {}
        self._profile = data_dir / "profile.yaml"

    @asynccontextmanager
    async def service(
        self, name: str, settings: type[ServiceSettings], build: Build, **values: Any
    ) -> AsyncIterator[Any]:
        """Run one more service; yields a channel to it."""
        configured = settings(port=0, data_dir=self.data_dir, profile=self._profile, **values)
        self._write_profile()
        async with server.start(name, configured, build) as running:
            self.running[name] = running
            self._write_profile()
            async with grpc.aio.insecure_channel(running.address) as channel:
                await channel.channel_ready()
                yield channel
        del self.running[name]

    def _write_profile(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        addresses = {name: running.address for name, running in self.running.items()}
        self._profile.write_text(yaml.safe_dump(addresses))


@asynccontextmanager
async def suite_with_lineage(data_dir: Path) -> AsyncIterator[Suite]:
    """Run lineage, which every other service needs."""
    suite = Suite(data_dir)
    async with suite.service("lineage", LineageSettings, build_lineage):
        yield suite
