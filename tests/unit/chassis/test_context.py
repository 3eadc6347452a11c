import asyncio

import pytest

from chassis.calls import caller_of, client_timeout
from chassis.context import Caller, acting_as, caller, check_deadline, deadline_in, time_left
from chassis.errors import DeadlinePassed


def test_a_caller_is_read_from_metadata_and_bounded() -> None:
    who = caller_of([("x-lineal-actor", "person:ada"), ("x-lineal-correlation-id", "c" * 1000), ("other-bin", b"x")])
    assert who.actor == "person:ada"
    assert who.correlation_id == "c" * 256
    assert who.causation_id == ""


def test_a_stranger_gets_a_correlation_id() -> None:
    assert caller_of([]).correlation_id
    assert caller_of([]).actor == Caller.actor


async def test_tasks_act_for_their_own_callers() -> None:
    async def act(name: str) -> str:
        with acting_as(Caller(name, "c", "")):
            await asyncio.sleep(0)
            return caller().actor

    assert tuple(await asyncio.gather(act("person:a"), act("person:b"))) == ("person:a", "person:b")


def test_a_deadline_is_passed_on_with_a_margin() -> None:
    assert time_left() is None
    assert client_timeout(None, 30) == 30
    with deadline_in(10):
        assert 9 < client_timeout(None, 30) < 9.99
        assert client_timeout(2, 30) == 2
    with deadline_in(0):
        assert client_timeout(5, 30) == 0


def test_what_is_checked_after_its_deadline_ends() -> None:
    check_deadline()
    with deadline_in(60):
        check_deadline()
    with deadline_in(0), pytest.raises(DeadlinePassed, match="has passed; give it more time"):
        check_deadline()
