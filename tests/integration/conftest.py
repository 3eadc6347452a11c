"""Real services in this process, each on a port of its own, wired by one profile."""

import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from chassis.artifacts import ArtifactStore
from chassis.server import RunningServer, start
from lineal.profile import Profile


class Suite:
    """Starts services on demand; each knows those started before it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._addresses: dict[str, str] = {}
        self.servers: dict[str, RunningServer] = {}

    async def start(self, *names: str, **settings: Any) -> None:
        """Start services in this order; `settings` are of the last one."""
        for name in names:
            profile = self.folder / f"profile-{name}.yaml"
            Profile(dict(self._addresses)).save(profile)
            module = importlib.import_module(f"services.{name}.settings")
            build = importlib.import_module(f"services.{name}.server").build
            own = settings if name == names[-1] else {}
            configured = module.Settings(port=0, data_dir=self.folder, profile=profile, drain_seconds=0, **own)
            running = await self._stack.enter_async_context(start(name, configured, build))
            self.servers[name] = running
            self._addresses[name] = running.address

    def stub(self, name: str) -> Any:
        """Return the asynchronous stub of a service."""
        module = importlib.import_module(f"lineal.api.{name}.v1.{name}_service_pb2_grpc")
        channel = grpc.aio.insecure_channel(self._addresses[name])
        self._stack.push_async_callback(channel.close)
        return getattr(module, f"{name.title()}ServiceStub")(channel)

    def address(self, name: str) -> str:
        """Return where a service listens."""
        return self._addresses[name]

    @property
    def artifacts(self) -> ArtifactStore:
        """The artifact store that the services share."""
        return next(iter(self.servers.values())).harness.artifacts


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    """A data folder in which services can be started; they stop in reverse order."""
    async with AsyncExitStack() as stack:
        yield Suite(tmp_path, stack)
