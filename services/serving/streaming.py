"""Answer a stream of requests: in their order, some computed at once, until the client or the replica stops."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

from chassis.errors import Unavailable

# Requests of one stream that are computed behind the oldest without an answer; the client's sends wait beyond that.
MOST_AHEAD = 16

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class ReplicaStops(Unavailable):
    """The replica reads no more of a stream."""


async def in_order(
    requests: AsyncIterable[Request], answer: Callable[[Request], Awaitable[Answer]], draining: asyncio.Event
) -> AsyncGenerator[Answer, None]:
    """Yield the answer of each request, in the order of the requests.

    Raises ReplicaStops once `draining` is set and what was read by then is answered. What is under way when the
    generator is closed is cancelled.
    """
    answers: asyncio.Queue[asyncio.Future[Answer] | None] = asyncio.Queue()
    room = asyncio.Semaphore(MOST_AHEAD)

    async def read() -> None:
        try:
            async for request in requests:
                answers.put_nowait(asyncio.ensure_future(answer(request)))
                await room.acquire()
        finally:
            answers.put_nowait(None)

    reading = asyncio.create_task(read())
    stopping = asyncio.create_task(draining.wait())
    stopping.add_done_callback(lambda _: reading.cancel())
    oldest: asyncio.Future[Answer] | None = None
    try:
        while (oldest := await answers.get()) is not None:
            yield await oldest
            room.release()
        if draining.is_set():
            raise ReplicaStops("this replica stops; send the requests that have no answer again, to another one")
        await reading
    finally:
        stopping.cancel()
        reading.cancel()
        if oldest is not None:
            oldest.cancel()
        while not answers.empty():
            if (waiting := answers.get_nowait()) is not None:
                waiting.cancel()
