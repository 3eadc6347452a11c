"""served = logged + dropped, whoever is killed, whatever the sink does, when the disk is full; 0 dropped where strict.

`LINEAL_TEST_RECORD_KILLS=20 LINEAL_TEST_BLACK_HOLE_SECONDS=30 python -m pytest` on this file asks for the long run,
with so many kills of each.
"""

import asyncio
import io
import logging
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pyarrow as pa
import pytest

from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.monitor_service_pb2_grpc import MonitorServiceStub
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.serving.v1.serving_service_pb2_grpc import ServingServiceStub
from lineal.channel import TRANSIENT, open_aio_channel
from lineal.profile import Profile
from tabular.columns import from_numpy
from tests.integration.lineage.processes import free_port
from tests.integration.serving.processes import Network, service
from tests.integration.serving.shop import Shop
from tests.integration.test_predictions import champion, rid

_logger = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(1800)
KILLS = int(os.environ.get("LINEAL_TEST_RECORD_KILLS", "2"))
BLACK_HOLE_SECONDS = float(os.environ.get("LINEAL_TEST_BLACK_HOLE_SECONDS", "3"))
# Most comparisons of a replica that reaches monitor with one that does not.
ROUNDS = 5
CLIENTS = 3
# What a request may meet whose server is killed; asked again with its id, it is answered once.
LOST = {*TRANSIENT, grpc.StatusCode.DEADLINE_EXCEEDED}
WAIT_SECONDS = 120


@dataclass
class Load:
    """Clients that ask until they are answered."""

    shop: Shop
    answers: list[Any] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: bool = False
    newer: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        clients = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        try:
            yield
        finally:
            self.stopped = True
            await asyncio.gather(*clients)

    async def more(self, count: int) -> None:
        """Return when there are so many more answers."""
        wanted = len(self.answers) + count
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.answers) < wanted:
                self.newer.clear()
                await self.newer.wait()

    async def _client(self, number: int) -> None:
        turn = 0
        while not self.stopped:
            turn += 1
            request = asked(f"{number}-{turn}")
            while (answer := await self._answer(request)) is None:
                pass
            self.answers.append(answer)
            self.newer.set()

    async def _answer(self, request: serving_api.PredictRequest) -> Any:
        try:
            return await self.shop.serving.Predict(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() not in LOST:
                self.failures.append(f"{error.code()}: {error.details()}")
            return None


def asked(key: str, rows: int = 1) -> serving_api.PredictRequest:
    columns = [
        from_numpy("amount", np.linspace(-1, 1, rows)),
        from_numpy("shop", np.array(["a"] * rows, dtype=object)),
    ]
    return serving_api.PredictRequest(endpoint="shop", request_id=rid(), routing_key=key, columns=columns)


async def counted(serving: Any) -> Any:
    """Return serving's counters once nothing is queued."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            (found,) = (await serving.GetCounters(serving_api.GetCountersRequest(), timeout=10)).endpoints
            assert found.served == found.logged + found.dropped + found.queued
            if not found.queued:
                return found
            await asyncio.sleep(0.05)  # between two looks at another process


async def recorded(shop: Shop) -> dict[str, float]:
    """Return the scores of all predictions that monitor has, by id; each is there once."""
    request = monitor_api.ReadPredictionsRequest(endpoint="shop")
    data = b"".join([piece.arrow async for piece in shop.monitor.ReadPredictions(request)])
    frame = pa.ipc.open_stream(io.BytesIO(data)).read_pandas()
    assert frame["prediction_id"].is_unique
    return dict(zip(frame["prediction_id"], frame["score"], strict=True))


def scores(answers: list[Any]) -> dict[str, float]:
    return {name: score for each in answers for name, score in zip(each.prediction_ids, each.scores, strict=True)}


@dataclass
class Processes:
    """Serving and monitor as processes that can be killed and come back where they were."""

    suite: Any
    stack: AsyncExitStack
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("serving", "monitor")})
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def open(self, monitor: str = "") -> Shop:
        """Start everything, with a champion; `monitor` is where serving believes it to be."""
        await self.suite.start("lineage", "registry")
        addresses = {name: self.suite.address(name) for name in ("lineage", "registry")}
        addresses |= {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        Profile(addresses).save(self.direct)
        Profile(addresses | ({"monitor": monitor} if monitor else {})).save(self.profile)
        for name in self.ports:
            await self.start(name)
        shop = Shop(
            self.suite,
            serving=ServingServiceStub(await self._channel("serving")),
            monitor=MonitorServiceStub(await self._channel("monitor")),
        )
        await shop.declare(strict=True)
        await shop.arms(champion(await shop.bundle(1)))
        return shop

    async def replica(self) -> Any:
        """Start a second replica of serving that finds monitor where it is; return its stub."""
        self.ports["replica"] = port = free_port()
        own = {"LINEAL_SERVING_REPLICA_ID": "two", "LINEAL_SERVING_WORKER": "2"}
        await self.stack.enter_async_context(service("serving", self.suite.folder, self.direct, port, **own))
        stub: Any = ServingServiceStub(await self._channel("replica"))
        async with asyncio.timeout(WAIT_SECONDS):
            while not await ready(stub):
                await asyncio.sleep(0.05)  # between two looks at a process that starts
        return stub

    async def _channel(self, name: str) -> grpc.aio.Channel:
        return await self.stack.enter_async_context(open_aio_channel(f"127.0.0.1:{self.ports[name]}"))

    @property
    def profile(self) -> Path:
        found: Path = self.suite.folder / "processes.yaml"
        return found

    @property
    def direct(self) -> Path:
        return self.profile.with_name("direct.yaml")

    async def start(self, name: str) -> None:
        run = service(name, self.suite.folder, self.profile, self.ports[name], LINEAL_SERVING_REPLICA_ID="one")
        self.running[name] = await self.stack.enter_async_context(run)

    async def kill(self, name: str) -> None:
        self.running[name].kill()
        assert await self.running[name].wait() == -9
        await self.start(name)


async def ready(serving: Any) -> bool:
    try:
        await serving.DescribeEndpoint(serving_api.DescribeEndpointRequest(endpoint="shop"))
    except grpc.aio.AioRpcError as error:
        if error.code() not in LOST:
            raise
        return False
    return True


@pytest.fixture
async def processes(suite: Any) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        yield Processes(suite, stack)


async def test_every_answer_has_one_record_whoever_is_killed(processes: Processes) -> None:
    shop = await processes.open()
    chance = random.Random(20261128)
    load = Load(shop)
    async with load.running():
        for number in range(2 * KILLS):
            await load.more(chance.randint(20, 200))
            await asyncio.sleep(chance.random() / 20)  # the moment of the kill, which nothing is waited for with
            await processes.kill(("serving", "monitor")[number % 2])
        await load.more(50)
    assert load.failures == []
    last = await counted(shop.serving)
    assert last.dropped == 0
    # Of requests, too, that were answered again after the answer before had been lost.
    assert await recorded(shop) == scores(load.answers)


async def test_a_sink_that_swallows_everything_costs_predictions_nothing(processes: Processes) -> None:
    async with Network(f"127.0.0.1:{processes.ports['monitor']}").run() as network:
        shop = await processes.open(network.address)
        # A second replica whose way to monitor stays open: both are asked in turn, whatever else the machine does.
        steady = await processes.replica()
        stubs = {"swallowed": shop.serving, "steady": steady}
        answers: dict[str, list[Any]] = {name: [] for name in stubs}
        network.swallow()

        async def round_of_both() -> dict[str, Any]:
            """Return the median and the 99th percentile of the milliseconds until answers."""
            latencies: dict[str, list[float]] = {name: [] for name in stubs}
            end = time.monotonic() + BLACK_HOLE_SECONDS

            async def client(number: int) -> None:
                while time.monotonic() < end:
                    # In either order, so that neither is always asked first.
                    for name in random.sample(list(stubs), len(stubs)):
                        request = asked(str(number))
                        start = time.perf_counter()
                        answers[name].append(await stubs[name].Predict(request, timeout=30))
                        latencies[name].append((time.perf_counter() - start) * 1000)

            await asyncio.gather(*(client(number) for number in range(CLIENTS)))
            return {name: np.percentile(known, (50, 99)) for name, known in latencies.items()}

        rounds: list[dict[str, Any]] = []
        # What swallowing costs is seen in each round, what else the machine does is not.
        while not (rounds and costs_nothing(**rounds[-1])):
            assert len(rounds) < ROUNDS, rounds
            rounds.append(await round_of_both())
        queued = (await shop.serving.GetCounters(serving_api.GetCountersRequest())).endpoints[0].queued
        assert queued == len(answers["swallowed"])
        network.forward()
        _logger.info("%d requests, ms until answers (p50, p99): %s", queued, rounds)
        for stub in stubs.values():
            last = await counted(stub)
            assert (last.served, last.dropped) == (last.logged, 0)
        assert await recorded(shop) == scores(answers["swallowed"] + answers["steady"])


def costs_nothing(swallowed: Any, steady: Any) -> bool:
    """Return whether one replica answers as fast as another: medians and 99th percentiles, in ms."""
    return bool(swallowed[0] < 1.25 * steady[0] and swallowed[1] < 1.25 * steady[1] + 5)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB that serving has its spool on."""
    folder = tmp_path / "serving" / "spool"
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "lineal-spool", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)


@pytest.mark.parametrize("strict", [True, False])
async def test_a_full_disk_is_refused_where_strict_and_counted_elsewhere(
    small_disk: Path, suite: Any, strict: bool
) -> None:
    await suite.start("lineage", "registry", "monitor")
    async with Network(suite.address("monitor")).run() as network:
        profile = suite.folder / "network.yaml"
        addresses = {name: suite.address(name) for name in ("lineage", "registry")}
        Profile(addresses | {"monitor": network.address}).save(profile)
        await suite.start("serving", profile=profile)
        shop = Shop(suite)
        await shop.declare(strict=strict)
        await shop.arms(champion(await shop.bundle(1)))
        network.swallow()
        answers, refusals = [], []
        # Of 1,500 rows the records are two frames: the disk has room for the first one of a request, or for none.
        for number in range(60):
            try:
                answers.append(await shop.serving.Predict(asked(str(number), rows=1 if number % 2 else 1_500)))
            except grpc.aio.AioRpcError as error:
                refusals.append(error)
        assert {error.code() for error in refusals} == ({grpc.StatusCode.UNAVAILABLE} if strict else set())
        assert all("cannot write to the spool" in str(error.details()) for error in refusals)
        enlarge(small_disk)
        # Without a restart.
        answers.append(await shop.serving.Predict(asked("again")))
        network.forward()
        counters = await counted(shop.serving)
        served = scores(answers)
        assert counters.served == len(served)
        assert counters.failed_requests == len(refusals)
        there = await recorded(shop)
        assert there.items() <= served.items()
        assert len(there) == counters.logged
        if strict:
            assert refusals
            assert counters.dropped == 0
        else:
            assert counters.dropped > 0
        assert answers[-1].prediction_ids[0] in there
