"""Run services for real in this process, each on a free port, wired by one profile."""

import importlib
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from chassis.artifacts import ArtifactStore
from chassis.server import RunningServer, start
from lineal.profile import Profile


class Suite:
    """The services that run on one data folder; each knows those started before it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.profile = folder / "profile.yaml"
        self.servers: dict[str, RunningServer] = {}
        self._expected: dict[str, int] = {}
        self._stack = stack

    def expect(self, name: str) -> None:
        """Give a service its port before it starts, so that those started before it know it, too."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._expected[name] = free.getsockname()[1]

    async def start(self, *names: str, **settings: Any) -> None:
        """Start services in this order; `settings` are of the last one."""
        for name in names:
            module = importlib.import_module(f"services.{name}.settings")
            build = importlib.import_module(f"services.{name}.server").build
            own = settings if name == names[-1] else {}
            port = self._expected.get(name, 0)
            values = {"port": port, "data_dir": self.folder, "profile": self.profile, "drain_seconds": 0} | own
            self._save_profile()
            self.servers[name] = await self._stack.enter_async_context(start(name, module.Settings(**values), build))
        self._save_profile()

    def stub(self, name: str, within: str = "") -> Any:
        """Return the asynchronous stub of a service, or of another one that its process offers."""
        module = importlib.import_module(f"lineal.api.{name}.v1.{within or name}_service_pb2_grpc")
        channel = grpc.aio.insecure_channel(self.address(name))
        self._stack.push_async_callback(channel.close)
        return getattr(module, f"{(within or name).title()}ServiceStub")(channel)

    def address(self, name: str) -> str:
        """Return where a service listens."""
        return self.servers[name].address

    @property
    def artifacts(self) -> ArtifactStore:
        """The artifact store that the services share."""
        return next(iter(self.servers.values())).harness.artifacts

    def _save_profile(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        expected = {name: f"127.0.0.1:{port}" for name, port in self._expected.items()}
        started = {name: server.address for name, server in self.servers.items()}
        Profile(expected | started).save(self.profile)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Suite]:
    """Yield a suite on a data folder; its services stop in reverse order."""
    async with AsyncExitStack() as stack:
        yield Suite(folder, stack)
