"""Services as processes of their own, and a network between two of them that can swallow what is sent."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CHUNK_BYTES = 1 << 16


@asynccontextmanager
async def service(
    name: str, folder: Path, profile: Path, port: int, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a service within the block, at whose end it is killed if it still runs.

    What it writes to stderr is in `<folder>/<name>.<port>.log`.
    """
    own = {f"LINEAL_{name.upper()}_PORT": str(port), "LINEAL_DATA_DIR": str(folder), "LINEAL_PROFILE": str(profile)}
    with (folder / f"{name}.{port}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"services.{name}", env=os.environ | own | environment, stderr=log
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


class Network:
    """Between clients and a server, at `address`: forwards what is sent, or keeps it back without a word."""

    def __init__(self, target: str) -> None:
        self._target = target.rpartition(":")
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.address = ""

    def swallow(self) -> None:
        """Keep back all that is sent from now on; connections can be made and stay open."""
        self._forwarding.clear()

    def forward(self) -> None:
        """Pass on what was kept back, and what comes."""
        self._forwarding.set()

    @asynccontextmanager
    async def run(self) -> AsyncIterator["Network"]:
        """Listen within the block."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target
        there, back = await asyncio.open_connection(host, int(port))
        for pump in (self._pump(reader, back), self._pump(there, writer)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._forwarding.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
