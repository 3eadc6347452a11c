"""`/metrics` of a running service, scraped as Prometheus does."""

import asyncio
import socket
import urllib.error
import urllib.request
from pathlib import Path

import grpc.aio
import pytest

from chassis.metrics_page import counter
from chassis.server import CannotStart, Harness, start
from chassis.settings import ServiceSettings
from tests.integration.chassis.demo import KINDS, NAME, add, call
from tests.integration.exposition import scrape


async def build(harness: Harness) -> None:
    async def echo(request: str) -> str:
        return request

    add(harness, echo)
    harness.add_metrics(lambda: [counter("echoes", "Echoes.", [({}, 2.0)])])


async def test_a_service_shows_its_calls_in_both_formats(tmp_path: Path) -> None:
    settings = ServiceSettings(port=0, metrics_port=0, data_dir=tmp_path)
    async with start("echo", settings, build) as running:
        async with grpc.aio.insecure_channel(running.address) as channel:
            for kind in KINDS:
                await call(channel, kind, "a,b")
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            page = await asyncio.to_thread(scrape, running.metrics_address, accept)
            for kind in KINDS:
                assert page.value("grpc_server_handled_total", grpc_service=NAME, grpc_method=kind, grpc_code="OK") == 1
            assert page.value("echoes_total") == 2
    # Only what was asked for as OpenMetrics has exemplars, each of them the trace of a call.
    assert len(page.exemplars) == len(KINDS)
    spans = (tmp_path / "telemetry" / "echo-spans.jsonl").read_text(encoding="utf-8")
    assert all(exemplar["trace_id"] in spans for exemplar in page.exemplars.values())


async def test_without_a_port_nothing_listens(tmp_path: Path) -> None:
    async with start("echo", ServiceSettings(port=0, data_dir=tmp_path), build) as running:
        assert running.metrics_address == ""


async def test_other_paths_and_faults_have_their_status(tmp_path: Path) -> None:
    async def faulty(harness: Harness) -> None:
        def fail() -> list[object]:
            raise ValueError("secret")

        harness.add_metrics(fail)  # type: ignore[arg-type]

    async with start("echo", ServiceSettings(port=0, metrics_port=0, data_dir=tmp_path), faulty) as running:

        def get(path: str) -> tuple[int, str]:
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://{running.metrics_address}{path}", timeout=5)
            with refused.value as error:
                return error.code, error.read().decode()

        code, text = await asyncio.to_thread(get, "/")
        assert (code, "/metrics" in text) == (404, True)
        code, text = await asyncio.to_thread(get, "/metrics")
        assert (code, "secret" in text) == (500, False)


async def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServiceSettings(port=0, metrics_port=taken.getsockname()[1], data_dir=tmp_path)
        with pytest.raises(CannotStart, match=r"already in use.*_METRICS_PORT to a free port"):
            async with start("echo", settings, build):
                pass
