"""Who calls: set per RPC by the server's interceptor, carried on by the client's."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import NamedTuple

from chassis.errors import DeadlinePassed
from chassis.ids import random_uuid

ACTOR = "x-lineal-actor"
CORRELATION_ID = "x-lineal-correlation-id"
CAUSATION_ID = "x-lineal-causation-id"
TRACEPARENT = "traceparent"


@dataclass(frozen=True)
class Caller:
    """Who causes what happens now.

    `actor` is `person:<name>`, `service:<name>` or `saga:<workflow id>`; `correlation_id` is shared by a whole saga or
    conversation; `causation_id` is the id of the event that led here, empty when a person started it.
    """

    actor: str = "unknown"
    correlation_id: str = field(default_factory=random_uuid)
    causation_id: str = ""


class Current(NamedTuple):
    """What is known of the call that is served now: who causes it, its deadline on the monotonic clock, its trace."""

    caller: Caller | None = None
    deadline: float | None = None
    traceparent: str = ""


_NO_CALL = Current()
# One for all, since every RPC sets them.
_current: ContextVar[Current] = ContextVar("lineal_current", default=_NO_CALL)


def caller() -> Caller:
    """Return who causes what happens now; outside a call a stranger with a new correlation id."""
    return _current.get().caller or Caller()


@contextmanager
def acting_as(who: Caller) -> Iterator[Caller]:
    """Act on behalf of somebody within a block."""
    token = _current.set(_current.get()._replace(caller=who))
    try:
        yield who
    finally:
        _current.reset(token)


def time_left() -> float | None:
    """Return the seconds until the deadline of the current call, None without one."""
    deadline = _current.get().deadline
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def check_deadline() -> None:
    """Raise DeadlinePassed when the deadline of the current call has passed, so that nothing is done in vain."""
    deadline = _current.get().deadline
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlinePassed("the deadline of the call has passed; give it more time, or ask for less at once")


def traceparent() -> str:
    """Return the trace that the current call came with, as W3C's Trace Context writes it; empty without one."""
    return _current.get().traceparent


def enter_call(who: Caller, seconds: float | None, trace: str) -> Token[Current]:
    """Act on behalf of somebody until `leave_call`, with a deadline and the trace that the call came with."""
    return _current.set(Current(who, None if seconds is None else time.monotonic() + seconds, trace))


def leave_call(token: Token[Current]) -> None:
    """Be who was there before."""
    _current.reset(token)


@contextmanager
def deadline_in(seconds: float | None) -> Iterator[None]:
    """Give the calls made within a block a deadline; None lifts it."""
    deadline = None if seconds is None else time.monotonic() + seconds
    token = _current.set(_current.get()._replace(deadline=deadline))
    try:
        yield
    finally:
        _current.reset(token)
