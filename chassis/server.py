"""The life of a service process: build, serve, drain.

On SIGTERM: say NOT_SERVING, wait until balancers have seen it, refuse new calls and finish the running ones, stop
background tasks, close resources in reverse order, write telemetry, exit 0.
"""

import asyncio
import errno
import fcntl
import gc
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]

from chassis.harness import Harness
from chassis.interceptors import Methods
from chassis.metrics_server import metrics_server
from chassis.projection_places import places_for
from chassis.settings import ServiceSettings
from chassis.telemetry import Telemetry, configure_logging

__all__ = ["CannotStart", "Harness", "RunningServer", "run", "start"]

_logger = logging.getLogger(__name__)
_GRACE_SECONDS = 5.0
# New objects that outlive others before garbage is sought.
_GC_THRESHOLD = 50_000
_HEALTH_SERVICE = "grpc.health.v1.Health"

Build = Callable[[Harness], Awaitable[None]]


class CannotStart(Exception):
    """The service cannot start; the message is one line that says why and what to do."""


@dataclass
class RunningServer:
    """A service that answers at `address`; `failed` completes when a background task has died.

    `metrics_address` has its `/metrics`, empty where that is off.
    """

    address: str
    harness: Harness
    failed: "asyncio.Future[BaseException]"
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    metrics_address: str = ""


def run(name: str, settings: ServiceSettings, build: Build) -> None:
    """Run a service until SIGTERM or SIGINT. With the argument `rebuild`: drop its read tables and exit.

    Exits with 0 after a drain, with 1 when it cannot start or a background task has died.
    """
    try:
        match sys.argv[1:]:
            case []:
                # What was imported stays: it need not be looked through again and again, nor as often as is usual for
                # programs that hold little. Calls cost up to a tenth less, and the slowest take half as long.
                gc.collect()
                gc.freeze()
                gc.set_threshold(_GC_THRESHOLD, 50, 100)
                # Calls cost a fifth less on it than on the loop of the standard library, see docs/adr/0012.
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    code = runner.run(_serve(name, settings, build))
            case ["rebuild"]:
                code = _rebuild(name, settings)
            case other:
                raise CannotStart(f"unknown arguments {' '.join(other)!r}; there is none, or `rebuild`")
    except CannotStart as error:
        sys.stderr.write(f"{name}: {error}\n")
        code = 1
    sys.exit(code)


@asynccontextmanager
async def start(name: str, settings: ServiceSettings, build: Build) -> AsyncIterator[RunningServer]:
    """Run a service within a block, in this process; port 0 takes a free one."""
    telemetry = Telemetry(name, settings.data_dir / "telemetry", settings.instance)
    try:
        with _SingleInstance(name, settings):
            async with _running(name, settings, build, telemetry) as running:
                yield running
    finally:
        await asyncio.to_thread(telemetry.shutdown)


async def _serve(name: str, settings: ServiceSettings, build: Build) -> int:
    telemetry = Telemetry(name, settings.data_dir / "telemetry", settings.instance)
    configure_logging(name, settings.log_level, telemetry)
    stopped, started = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    serving = asyncio.current_task()
    assert serving is not None

    def stop() -> None:
        stopped.set()
        if not started.is_set():
            serving.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        with _SingleInstance(name, settings):
            async with _running(name, settings, build, telemetry) as running:
                started.set()
                waiting = asyncio.create_task(stopped.wait())
                ends: set[asyncio.Future[Any]] = {waiting, running.failed}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if stopped.is_set():
                    _logger.info("draining")
                    await running.harness.health.drain()
                    await asyncio.sleep(settings.drain_seconds)
                return 1 if running.failed.done() else 0
    except asyncio.CancelledError:
        if stopped.is_set():
            _logger.info("stopped before it had started")
            return 0
        raise
    finally:
        await asyncio.to_thread(telemetry.shutdown)


@asynccontextmanager
async def _running(
    name: str, settings: ServiceSettings, build: Build, telemetry: Telemetry
) -> AsyncIterator[RunningServer]:
    _check_bind(settings)
    methods = Methods(telemetry, settings.deadline_seconds)
    server = grpc.aio.server(
        handlers=[methods],
        maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
        options=[
            # Two processes on one port share its calls, which only some are made for.
            ("grpc.so_reuseport", int(settings.shares_port)),
            ("grpc.max_concurrent_streams", 256),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 2),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    harness = Harness(name, settings, telemetry, methods)
    running = RunningServer("", harness, asyncio.get_running_loop().create_future())
    async with harness.stack:
        await build(harness)
        health_pb2_grpc.add_HealthServicer_to_server(harness.health.servicer, methods)
        _reflect(harness, methods)
        await harness.health.begin()
        port = server.add_insecure_port(settings.address(settings.port))
        running.address = settings.address(port)
        if settings.metrics_port is not None:
            serving = metrics_server(settings.host, settings.metrics_port, harness.metrics)
            running.metrics_address = settings.address(await harness.enter(serving))
            _logger.info("%s has its metrics at http://%s/metrics", name, running.metrics_address)
        try:
            await server.start()
            harness.add_task("health", harness.health.run)
            running.tasks = [
                asyncio.create_task(_watched(task, factory, running), name=task)
                for task, factory in harness.tasks.items()
            ]
            _logger.info("%s listens on %s", name, running.address)
            yield running
        finally:
            harness.draining.set()
            await harness.health.drain()
            await server.stop(_GRACE_SECONDS)
            for task in running.tasks:
                task.cancel()
            await asyncio.gather(*running.tasks, return_exceptions=True)


async def _watched(name: str, factory: Callable[[], Awaitable[None]], running: RunningServer) -> None:
    try:
        await factory()
    except Exception as error:
        if running.harness.draining.is_set():
            _logger.info("background task %r ended while draining: %s", name, error)
            return
        _logger.critical("background task %r died, so this process ends", name, exc_info=error)
        if not running.failed.done():
            running.failed.set_result(error)


def _reflect(harness: Harness, methods: Methods) -> None:
    if not harness.settings.dev:
        return
    # Imported here because it lists every method to anyone who asks: nothing of it is in a process that is not in dev.
    from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc  # type: ignore[import-untyped]

    names = [*harness.services, _HEALTH_SERVICE, reflection.SERVICE_NAME]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), methods)


def _check_bind(settings: ServiceSettings) -> None:
    variable = f"LINEAL_{settings.service_name().upper().replace('-', '_')}"
    if not _is_loopback(settings.host) and not settings.allow_insecure_bind:
        raise CannotStart(
            f"refusing to listen on {settings.host} without encryption; set {variable}_HOST=127.0.0.1, or "
            "LINEAL_ALLOW_INSECURE_BIND=1 where the network itself is private, as in a container"
        )
    _check_port(settings, settings.port, variable, "PORT", shared=settings.shares_port)
    if settings.metrics_port is not None:
        _check_port(settings, settings.metrics_port, variable, "METRICS_PORT")


def _check_port(settings: ServiceSettings, port: int, variable: str, name: str, *, shared: bool = False) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
            probe.bind((settings.host, port))
    except OSError as error:
        address = settings.address(port)
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"{address} is already in use; stop the process that listens there (`ss -ltnp` names it) or set "
                f"{variable}_{name} to a free port"
            ) from None
        why = f"cannot listen on {address}: {error.strerror}"
        raise CannotStart(f"{why}; set {variable}_HOST or {variable}_{name}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _SingleInstance:
    """Hold the lock of a service's folder, where its SQLite files are; on PostgreSQL there may be many."""

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        self._name = name
        self._settings = settings

    def __enter__(self) -> None:
        folder = self._settings.service_dir
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".lock").open("w")
        if not self._settings.database.startswith("sqlite"):
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise CannotStart(
                f"another {self._name} runs on {folder}; stop it, or set LINEAL_DATA_DIR to another folder"
            ) from None

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _rebuild(name: str, settings: ServiceSettings) -> int:
    with _SingleInstance(name, settings):
        dropped = places_for(settings.database, settings.service_dir).drop_all()
    names = ", ".join(dropped) or "nothing, there are none"
    sys.stdout.write(f"{name}: dropped {names}; the next start builds the read tables from the log\n")
    return 0
