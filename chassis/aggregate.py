"""Load an aggregate by folding its stream, decide, append at the revision that was decided on."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from google.protobuf.message import Message

from chassis.errors import Conflict, RuleViolated
from chassis.events import Event, EventLog
from chassis.ids import check_request_id

S = TypeVar("S")
_ATTEMPTS = 5


class EventTypeUnknown(RuleViolated):
    """A stream has an event that this version of the service cannot read."""


@dataclass(frozen=True)
class Decider(Generic[S]):
    """A pure fold: where an aggregate starts, and how each event changes it.

    `evolve` returns a new state and leaves the old one as it is: states are cached.
    """

    initial: S
    evolve: Callable[[S, Message], S]


@dataclass(frozen=True)
class Loaded(Generic[S]):
    """The state of an aggregate at a revision; revision 0 means that it does not exist."""

    state: S
    revision: int = 0
    position: int = 0


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """What a command came to: its events, the log position to hand to the caller, and the state after it."""

    events: list[Message]
    position: int
    state: S
    repeated: bool


@dataclass
class _Cached(Generic[S]):
    loaded: Loaded[S]
    # Revisions of the first and last event of each command.
    requests: dict[str, tuple[int, int]] = field(default_factory=dict)


class Repository(Generic[S]):
    """The aggregates of one kind: `Repository(log, prefix="dataset", decider=...)` has the streams `dataset/<key>`."""

    def __init__(self, log: EventLog, prefix: str, decider: Decider[S], cached: int = 1024) -> None:
        self._log = log
        self._prefix = prefix
        self._decider = decider
        self._cache: OrderedDict[str, _Cached[S]] = OrderedDict()
        self._size = cached

    async def load(self, key: str) -> Loaded[S]:
        """Return the newest state; only events that were not seen before are read."""
        return (await self._refresh(key)).loaded

    async def execute(
        self,
        key: str,
        *,
        request_id: str,
        decide: Callable[[S], Sequence[Message]],
    ) -> Outcome[S]:
        """Decide on the newest state and append what was decided.

        A request id that is already in the stream answers with its events and decides nothing. A race that was lost is
        run again on the new state, up to 5 times; then Conflict. Errors of `decide` pass through.
        """
        request_id = check_request_id(request_id)
        for _ in range(_ATTEMPTS):
            cached = await self._refresh(key)
            if request_id in cached.requests:
                return await self._repeated(key, cached, *cached.requests[request_id])
            loaded = cached.loaded
            events = list(decide(loaded.state))
            if not events:
                return Outcome([], loaded.position, loaded.state, repeated=False)
            try:
                result = await self._log.append(
                    self._stream(key), events, request_id=request_id, expected_revision=loaded.revision
                )
            except Conflict:
                continue
            if result.repeated:
                continue
            state = loaded.state
            for event in events:
                state = self._decider.evolve(state, event)
            return Outcome(events, result.position, state, repeated=False)
        raise Conflict(f"{self._stream(key)} changed {_ATTEMPTS} times meanwhile; send the same request again")

    def _stream(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    async def _repeated(self, key: str, cached: _Cached[S], first: int, last: int) -> Outcome[S]:
        events = await self._log.read_stream(self._stream(key), first - 1, last - first + 1)
        return Outcome([_known(event) for event in events], events[-1].position, cached.loaded.state, repeated=True)

    async def _refresh(self, key: str) -> _Cached[S]:
        before = self._cache.get(key)
        revision = before.loaded.revision if before else 0
        events = await self._log.read_stream(self._stream(key), revision)
        # Another task may have folded the same events while this one was reading.
        cached = self._cache.get(key) or _Cached(Loaded(self._decider.initial))
        if events:
            self._fold(cached, events)
            self._cache[key] = cached
        if key in self._cache:
            self._cache.move_to_end(key)
        while len(self._cache) > self._size:
            self._cache.popitem(last=False)
        return cached

    def _fold(self, cached: _Cached[S], events: Sequence[Event]) -> None:
        for event in events:
            if event.revision != cached.loaded.revision + 1:
                continue
            state = self._decider.evolve(cached.loaded.state, _known(event))
            first, _ = cached.requests.get(event.request_id, (event.revision, 0))
            cached.requests[event.request_id] = (first, event.revision)
            cached.loaded = Loaded(state, event.revision, event.position)


def _known(event: Event) -> Message:
    if event.message is None:
        raise EventTypeUnknown(
            f"{event.stream} has an event of type {event.type} at revision {event.revision} that this version does not "
            "know; run a version of the service that does"
        )
    return event.message
