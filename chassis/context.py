"""Who calls: set per RPC by the server's interceptor, carried on by the client's."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

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


_caller: ContextVar[Caller | None] = ContextVar("lineal_caller", default=None)
_deadline: ContextVar[float | None] = ContextVar("lineal_deadline", default=None)
_traceparent: ContextVar[str] = ContextVar("lineal_traceparent", default="")


CallTokens = tuple[Token[Caller | None], Token[float | None], Token[str]]


def caller() -> Caller:
    """Return who causes what happens now; outside a call a stranger with a new correlation id."""
    return _caller.get() or Caller()


@contextmanager
def acting_as(who: Caller) -> Iterator[Caller]:
    """Act on behalf of somebody within a block."""
    token = _caller.set(who)
    try:
        yield who
    finally:
        _caller.reset(token)


def time_left() -> float | None:
    """Return the seconds until the deadline of the current call, None without one."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def check_deadline() -> None:
    """Raise DeadlinePassed when the deadline of the current call has passed, so that nothing is done in vain."""
    deadline = _deadline.get()
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlinePassed("the deadline of the call has passed; give it more time, or ask for less at once")


def traceparent() -> str:
    """Return the trace that the current call came with, as W3C's Trace Context writes it; empty without one."""
    return _traceparent.get()


def enter_call(who: Caller, seconds: float | None, trace: str) -> CallTokens:
    """Act on behalf of somebody until `leave_call`, with a deadline and the trace that the call came with.

    All at once and without a block of its own for each, since every RPC passes here.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    return _caller.set(who), _deadline.set(deadline), _traceparent.set(trace)


def leave_call(tokens: CallTokens) -> None:
    """Be who was there before."""
    who, deadline, trace = tokens
    _caller.reset(who)
    _deadline.reset(deadline)
    _traceparent.reset(trace)


@contextmanager
def deadline_in(seconds: float | None) -> Iterator[None]:
    """Give the calls made within a block a deadline; None lifts it."""
    token = _deadline.set(None if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)
