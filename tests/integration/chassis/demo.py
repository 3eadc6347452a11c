"""A service small enough for tests: it answers with strings, in all four kinds of RPC."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from chassis.server import Harness

NAME = "lineal.test.EchoService"
Behavior = Callable[[str], Awaitable[str]]


def encode(text: str | bytes) -> bytes:
    # The asyncio server of gRPC encodes strings itself before it serialises them.
    return text if isinstance(text, bytes) else text.encode()


def decode(data: bytes) -> str:
    return data.decode()


class Echo:
    """Answers every RPC with what `answer` makes of each request."""

    def __init__(self, answer: Behavior) -> None:
        self.answer = answer

    async def unary(self, request: str, context: Any) -> str:
        return await self.answer(request)

    async def upload(self, requests: AsyncIterator[str], context: Any) -> str:
        return ",".join([await self.answer(request) async for request in requests])

    async def download(self, request: str, context: Any) -> AsyncIterator[str]:
        for part in request.split(","):
            yield await self.answer(part)

    async def chat(self, requests: AsyncIterator[str], context: Any) -> AsyncIterator[str]:
        async for request in requests:
            yield await self.answer(request)


def add(harness: Harness, answer: Behavior) -> None:
    echo = Echo(answer)
    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo.unary, decode, encode),
        "Upload": grpc.stream_unary_rpc_method_handler(echo.upload, decode, encode),
        "Download": grpc.unary_stream_rpc_method_handler(echo.download, decode, encode),
        "Chat": grpc.stream_stream_rpc_method_handler(echo.chat, decode, encode),
    }
    handler = grpc.method_handlers_generic_handler(NAME, kinds)
    harness.add_servicer(lambda _, server: server.add_generic_rpc_handlers((handler,)), echo, NAME)


async def call(channel: grpc.aio.Channel, kind: str, request: str, **options: Any) -> str:
    """Make one call of a kind and return what came back."""
    path = f"/{NAME}/{kind}"

    async def requests() -> AsyncIterator[str]:
        for part in request.split(","):
            yield part

    match kind:
        case "Unary":
            return str(await channel.unary_unary(path, encode, decode)(request, **options))
        case "Upload":
            return str(await channel.stream_unary(path, encode, decode)(requests(), **options))
        case "Download":
            made: Any = channel.unary_stream(path, encode, decode)(request, **options)
        case _:
            made = channel.stream_stream(path, encode, decode)(requests(), **options)
    try:
        return ",".join([part async for part in made])
    finally:
        made.cancel()


KINDS = ["Unary", "Upload", "Download", "Chat"]
