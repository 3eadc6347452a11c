"""`/metrics` over HTTP, from threads of its own, so that a slow scraper holds up nothing."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import TCPServer

from chassis.metrics_page import OPEN_METRICS, TEXT, Family, render

_logger = logging.getLogger(__name__)
# How long a scraper may take to ask, and the service's loop to answer.
_SCRAPE_SECONDS = 5.0

Collect = Callable[[], Awaitable[list[Family]]]


@asynccontextmanager
async def metrics_server(host: str, port: int, collect: Collect) -> AsyncIterator[int]:
    """Answer `GET /metrics` within this block, and give the port.

    `collect` runs in the loop, to which belongs what a service counts. Raises OSError when the port cannot be had.
    """
    server = _Server(host, port, collect)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


class _Server(ThreadingHTTPServer):
    def __init__(self, host: str, port: int, collect: Collect) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self._collect = collect
        self._loop = asyncio.get_running_loop()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask DNS for a name of the host, which nothing here needs and which may take seconds.
        TCPServer.server_bind(self)

    def page(self, *, open_metrics: bool) -> bytes:
        collecting = asyncio.run_coroutine_threadsafe(self._families(), self._loop)
        return render(collecting.result(_SCRAPE_SECONDS), open_metrics=open_metrics).encode()

    async def _families(self) -> list[Family]:
        return await self._collect()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SCRAPE_SECONDS
    server_version = "lineal"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page, in the format that is asked for."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, explain="the metrics are at /metrics")
            return
        open_metrics = "application/openmetrics-text" in self.headers.get("Accept", "")
        try:
            page = self.server.page(open_metrics=open_metrics)
        except Exception:
            _logger.exception("the metrics cannot be collected")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain="the service's log says why")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", OPEN_METRICS if open_metrics else TEXT)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Say nothing: a scraper comes every few seconds."""
