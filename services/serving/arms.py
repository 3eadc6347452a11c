"""The arms that this replica serves: folded from the log, loaded, then swapped between two requests."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property

from chassis.errors import LinealError, NotFound, RuleViolated, Unavailable
from chassis.events import EventLog
from lineal.api.registry.v1.endpoint_pb2 import Arm, Endpoint, RefusedArms
from services.serving.policies import ReviewedPolicy
from services.serving.routing import Routes
from services.serving.scorers import Scorers
from services.serving.signatures import Signatures
from services.serving.standing import TYPES, Standing
from tabular.bundle import Bundle

_logger = logging.getLogger(__name__)
# An artifact may be restored, or its store come back.
_RETRY_SECONDS = (2.0, 60.0)


class EndpointUnknown(NotFound):
    """No endpoint of that name was declared."""


class NoChampion(Unavailable):
    """The endpoint has no bundle that could answer."""


class EndpointSuspended(RuleViolated):
    """A person has stopped all answers of the endpoint."""


class HistoryUnread(Unavailable):
    """The replica has just started and is reading the log."""


@dataclass(frozen=True)
class LoadedArms:
    """One generation of an endpoint, whose bundles were loaded. A request holds on to the one it began with."""

    endpoint: Endpoint
    generation: int
    arms: tuple[Arm, ...]
    bundles: dict[str, Bundle]

    @cached_property
    def champion(self) -> Arm | None:
        """The champion's arm."""
        return self.routes.champion

    @property
    def champion_bundle(self) -> Bundle:
        """The champion's manifest; there is one wherever a request came this far."""
        assert self.champion is not None
        return self.bundles[self.champion.bundle_digest]

    @cached_property
    def lookup_seconds(self) -> float | None:
        """How long features may take to be looked up; None is as long as the caller waits."""
        if not self.endpoint.HasField("fallback"):
            return None
        return self.endpoint.fallback.lookup_timeout.ToTimedelta().total_seconds()

    @cached_property
    def routes(self) -> Routes:
        """Which arm answers which key."""
        return Routes(self.endpoint.name, self.arms)


class ArmTable:
    """The loaded arms of all endpoints."""

    def __init__(
        self, log: EventLog, scorers: Scorers, signatures: Signatures, applied: Callable[[], Awaitable[None]]
    ) -> None:
        """Call `applied` whenever arms were swapped."""
        self._log = log
        self._scorers = scorers
        self._applied = applied
        self._standing = Standing(signatures)
        self._loaded: dict[str, LoadedArms] = {}
        self._former: dict[str, LoadedArms] = {}
        self._refused: dict[str, RefusedArms] = {}
        # Generations that were refused since the start, by endpoint.
        self.refusals: Counter[str] = Counter()
        self._changing = asyncio.Lock()
        self._live = False
        # Endpoints whose arms are to be loaded.
        self._changed: set[str] = set()
        self._to_load = asyncio.Event()

    @property
    def generations(self) -> dict[str, int]:
        """The generation that is applied, by endpoint."""
        return {name: loaded.generation for name, loaded in self._loaded.items()}

    @property
    def refused(self) -> dict[str, RefusedArms]:
        """The newest arms that could not be loaded, by endpoint; those before go on answering."""
        return dict(self._refused)

    def names(self) -> list[str]:
        """Return the endpoints that were declared."""
        return sorted(self._standing.endpoints)

    def get(self, endpoint: str) -> LoadedArms:
        """Return the arms of an endpoint. Raises EndpointUnknown, EndpointSuspended, NoChampion, HistoryUnread."""
        loaded = self._loaded.get(endpoint)
        if loaded is not None and loaded.champion is not None:
            # Looked at with each request: what is suspended stops with the event, whatever is being loaded.
            self._check_suspension(endpoint)
            return loaded
        if not self._live:
            raise HistoryUnread("this replica has just started and is reading the log; try again")
        if endpoint not in self._standing.endpoints:
            known = ", ".join(self.names()) or "none"
            raise EndpointUnknown(f"endpoint {endpoint!r} is unknown; there are: {known}")
        self._check_suspension(endpoint)
        refused = self._refused.get(endpoint)
        why = refused.reason if refused else "release a bundle first, for example with `lineal train`"
        raise NoChampion(f"endpoint {endpoint!r} has no champion: {why}")

    def declared(self, endpoint: str) -> tuple[Endpoint, int]:
        """Return the declaration and the generation of an endpoint as the log has them, whatever could be loaded.

        An endpoint without a name and its generation 0 where it is unknown.
        """
        known = self._standing.endpoints.get(endpoint)
        return (Endpoint(), 0) if known is None else (known.endpoint, known.generation)

    def bundle(self, endpoint: str) -> Bundle | None:
        """Return the manifest of the champion, also of a suspended endpoint; None without one."""
        loaded = self._loaded.get(endpoint)
        if loaded is None or loaded.champion is None:
            return None
        return loaded.champion_bundle

    def policy(self, endpoint: str) -> ReviewedPolicy | None:
        """Return the reviewed explanation policy of an endpoint's model, None without one. Raises as `get` does."""
        return self._standing.policies.of(self.get(endpoint).endpoint.model)

    async def check(self) -> None:
        """Raise while the history has not been read.

        Arms that could not be loaded do not stop a replica: it answers with those before, and for other endpoints.
        """
        if not self._live:
            raise HistoryUnread("reading the log")

    async def run(self) -> None:
        """Follow the log for ever, and load what changes."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._load())

    async def _follow(self) -> None:
        async for delivery in self._log.subscribe(0, TYPES):
            self._changed |= self._standing.apply(delivery.events)
            # Of the history only the last generation matters.
            if delivery.live and (self._changed or not self._live):
                self._to_load.set()

    async def _load(self) -> None:
        """Load in a task of its own: a suspension is not to wait until some bundle has been tried."""
        while True:
            await self._to_load.wait()
            self._to_load.clear()
            changed, self._changed = self._changed, set()
            for name in sorted(changed):
                await self._apply(name)
            self._live = True
            await self._applied()

    async def retry(self) -> None:
        """Try again, for ever, to load arms that could not be loaded."""
        pause, longest = _RETRY_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest) if self._refused else _RETRY_SECONDS[0]
            for name in sorted(self._refused):
                await self._apply(name)
                if name not in self._refused:
                    await self._applied()

    async def _apply(self, name: str) -> None:
        async with self._changing:
            known = self._standing.endpoints[name]
            # What the log says next while these are being loaded is the next turn's.
            endpoint, generation, arms = known.endpoint, known.generation, known.arms
            try:
                bundles = {}
                for arm in arms:
                    self._standing.check(arm)
                    bundles[arm.bundle_digest] = (await self._scorers.get(arm.bundle_digest)).bundle
            except (LinealError, OSError) as error:
                # The arms before go on answering; whoever changed them is told that this generation is refused.
                self._refuse(name, generation, str(error))
                return
            self._refused.pop(name, None)
            before = self._loaded.get(name)
            # A signature that comes later has the same generation loaded once more.
            if before is not None and before.generation != generation:
                self._former[name] = before
            self._loaded[name] = LoadedArms(endpoint, generation, arms, bundles)
            # Requests under way have the generation before, and a rollback goes back to it.
            held = [*self._loaded.values(), *self._former.values()]
            self._scorers.keep(digest for loaded in held for digest in loaded.bundles)

    def _check_suspension(self, endpoint: str) -> None:
        if suspension := self._standing.endpoints[endpoint].suspension:
            raise EndpointSuspended(f"endpoint {endpoint!r} is suspended by {suspension}; `lineal resume` ends it")

    def _refuse(self, name: str, generation: int, reason: str) -> None:
        refused = RefusedArms(generation=generation, reason=reason)
        before = self._refused.get(name)
        if before is None or before.generation != generation:
            self.refusals[name] += 1
        if before != refused:
            _logger.error("generation %d of %s is not applied: %s", generation, name, reason)
        self._refused[name] = refused
