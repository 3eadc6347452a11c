"""What the composition root of a service builds with."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

import grpc.aio

from chassis.artifacts import ArtifactStore, artifact_store
from chassis.call_metrics import call_metrics
from chassis.channels import open_service_channel
from chassis.clock import Clock, SystemClock
from chassis.database_inspection import Inspection
from chassis.events import EventLog
from chassis.health import Check, Health
from chassis.interceptors import Methods
from chassis.log import LineageLog
from chassis.metrics_page import Family, gauge
from chassis.projection import Projection, ProjectionRunner
from chassis.projection_places import Places, places_for
from chassis.projection_servicer import ProjectionServicer
from chassis.settings import ServiceSettings
from chassis.telemetry import Telemetry
from lineal.api.lineage.v1 import projection_service_pb2
from lineal.api.lineage.v1.projection_service_pb2_grpc import add_ProjectionServiceServicer_to_server
from lineal.profile import Profile

T = TypeVar("T")


class Harness:
    """The parts that every service has, and the places to hang its own on."""

    def __init__(self, name: str, settings: ServiceSettings, telemetry: Telemetry, methods: Methods) -> None:
        self.name = name
        self.settings = settings
        self.telemetry = telemetry
        self.clock: Clock = SystemClock()
        self.health = Health()
        self.draining = asyncio.Event()
        self.profile = Profile.load(settings.profile)
        self.services: list[str] = []
        self.tasks: dict[str, Callable[[], Awaitable[None]]] = {}
        self.stack = AsyncExitStack()
        self._methods = methods
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._artifacts: ArtifactStore | None = None
        self._log: EventLog | None = None
        self._places: Places | None = None
        self._runners: list[ProjectionRunner] = []
        self._inspections: list[Callable[[], Awaitable[Inspection]]] = []
        self._metrics: list[Callable[[], Iterable[Family]]] = []

    @property
    def log(self) -> EventLog:
        """The event log, behind lineage's RPCs unless it was set."""
        if self._log is None:
            self._log = LineageLog(self.channel("lineage"))
        return self._log

    @log.setter
    def log(self, log: EventLog) -> None:
        self._log = log

    @property
    def artifacts(self) -> ArtifactStore:
        """The artifact store that all services share."""
        if self._artifacts is None:
            self._artifacts = artifact_store(self.settings.artifacts, self.settings.service_dir / "artifact-cache")
        return self._artifacts

    def add_servicer(self, add_to_server: Callable[[Any, Any], None], servicer: Any, full_name: str) -> None:
        """Offer a gRPC service, for example `add_XServicer_to_server, servicer, "lineal.api.x.v1.XService"`."""
        add_to_server(servicer, self._methods)
        self.services.append(full_name)
        self.health.add_service(full_name)

    def add_projection(self, projection: Projection) -> ProjectionRunner:
        """Keep a projection up to date in the background; the service is not ready until it has read the history."""
        if self._places is None:
            self._places = places_for(self.settings.database, self.settings.service_dir)
            full_name = projection_service_pb2.DESCRIPTOR.services_by_name["ProjectionService"].full_name
            self.add_servicer(
                add_ProjectionServiceServicer_to_server, ProjectionServicer(self._runners, self._inspections), full_name
            )
        runner = ProjectionRunner(projection, self.log, self._places)
        self._runners.append(runner)
        self.add_task(f"projection {projection.name}", runner.run)
        self.add_check(f"projection {projection.name}", runner.check)
        self.stack.push_async_callback(runner.close)
        return runner

    def add_inspection(self, inspect: Callable[[], Awaitable[Inspection]]) -> None:
        """Let `lineal doctor` see a database beside those of the projections."""
        self._inspections.append(inspect)

    def add_task(self, name: str, factory: Callable[[], Awaitable[None]]) -> None:
        """Run a task in the background from the start; if it raises, the process ends with a failure."""
        self.tasks[name] = factory

    def add_check(self, name: str, check: Check) -> None:
        """Say NOT_SERVING while `check` raises."""
        self.health.add_check(name, check)

    def add_metrics(self, families: Callable[[], Iterable[Family]]) -> None:
        """Show more families at `/metrics` beside those of calls and projections."""
        self._metrics.append(families)

    async def metrics(self) -> list[Family]:
        """Return what `/metrics` shows now."""
        positions = [({"projection": runner.projection.name}, float(runner.position)) for runner in self._runners]
        found = [
            *call_metrics("server", self.telemetry.server_duration),
            *call_metrics("client", self.telemetry.client_duration),
            gauge("lineal_projection_position", "Log position up to which a projection has gone.", positions),
        ]
        return [*found, *(family for families in self._metrics for family in families())]

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Open a resource that is closed at the end, in reverse order."""
        return await self.stack.enter_async_context(manager)

    def channel(self, service: str) -> grpc.aio.Channel:
        """Return the channel to another service, one per service."""
        if service not in self._channels:
            channel = open_service_channel(
                self.profile.address(service),
                service=self.name,
                telemetry=self.telemetry,
                deadline_seconds=self.settings.deadline_seconds,
            )
            self._channels[service] = channel
            self.stack.push_async_callback(channel.close)
        return self._channels[service]
