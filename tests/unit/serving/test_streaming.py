"""A stream's answers come in the order of its requests, whatever ends first, and all of them before it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from services.serving.streaming import MOST_AHEAD, ReplicaStops, in_order

REQUESTS = list(range(3 * MOST_AHEAD))


class Work:
    """Answers each request when it is allowed to, and knows what it has begun and what was cancelled."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.allowed = [asyncio.Event() for _ in REQUESTS]

    async def answer(self, request: int) -> int:
        self.begun.append(request)
        try:
            await self.allowed[request].wait()
        except asyncio.CancelledError:
            self.cancelled.append(request)
            raise
        return -request


async def endless(requests: list[int]) -> AsyncIterator[int]:
    """Send requests, then nothing and no end."""
    for request in requests:
        yield request
    await asyncio.Event().wait()


async def finite(requests: list[int]) -> AsyncIterator[int]:
    for request in requests:
        yield request


async def until_idle() -> None:
    """Let every task run until all of them wait; none here waits for anything outside of the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_answers_keep_the_order_of_requests_that_end_in_another() -> None:
    work = Work()
    for event in reversed(work.allowed):
        event.set()
    found = [answer async for answer in in_order(finite(REQUESTS), work.answer, asyncio.Event())]
    assert found == [-request for request in REQUESTS]


async def test_so_many_are_computed_at_once_and_no_more_are_read() -> None:
    work = Work()
    async with aclosing(in_order(finite(REQUESTS), work.answer, asyncio.Event())) as answers:
        for event in work.allowed[1:]:
            event.set()
        first = asyncio.ensure_future(anext(answers))
        await until_idle()
        # One waits to be let in, as the first is not answered though all others are.
        assert len(work.begun) == MOST_AHEAD + 1
        work.allowed[0].set()
        assert await first == 0


async def test_a_replica_that_stops_answers_what_it_has_read() -> None:
    work, draining = Work(), asyncio.Event()
    async with aclosing(in_order(endless(REQUESTS[:5]), work.answer, draining)) as answers:
        first = asyncio.ensure_future(anext(answers))
        await until_idle()
        draining.set()
        for event in work.allowed:
            event.set()
        found = [await first]
        found += [await anext(answers) for _ in REQUESTS[1:5]]
        assert found == [-request for request in REQUESTS[:5]]
        with pytest.raises(ReplicaStops, match="send the requests that have no answer again"):
            await anext(answers)


async def test_what_is_under_way_ends_with_the_stream() -> None:
    work = Work()
    async with aclosing(in_order(endless(REQUESTS[:5]), work.answer, asyncio.Event())) as answers:
        work.allowed[0].set()
        assert await anext(answers) == 0
        await until_idle()
    await until_idle()
    assert sorted(work.cancelled) == [1, 2, 3, 4]


async def test_a_fault_of_the_client_ends_the_stream() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 0
        raise ConnectionError("gone")

    work = Work()
    work.allowed[0].set()
    async with aclosing(in_order(broken(), work.answer, asyncio.Event())) as answers:
        assert await anext(answers) == 0
        with pytest.raises(ConnectionError, match="gone"):
            await anext(answers)
