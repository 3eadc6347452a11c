"""The port to online state, and its implementation over the service's database."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from chassis import projection_state
from chassis.projection import ProjectionRunner
from services.features import online
from services.features.lookup import Standing, Store
from services.features.packing import Layout

T = TypeVar("T")


class OnlineStore(Protocol):
    """Online state that follows the log."""

    @property
    def position(self) -> int:
        """The log position up to which events were applied."""
        ...

    @property
    def still(self) -> tuple[int, int] | None:
        """While it is the same this process has applied nothing; None where the store cannot say."""
        ...

    async def wait_for(self, position: int) -> None:
        """Return once events up to a position were applied; ProjectionBehind after the call's deadline."""
        ...

    async def layouts(self, versions: Sequence[str]) -> dict[str, Layout]:
        """Return what views keep, by version."""
        ...

    async def read(self, fn: Callable[[Store], T]) -> tuple[T, int]:
        """Return what `fn` reads, in a thread, and the log position that it had applied: no more and no less."""
        ...


class SqlOnlineStore:
    """Online state in the tables of a projection."""

    def __init__(self, runner: ProjectionRunner) -> None:
        self._runner = runner

    @property
    def position(self) -> int:
        """The log position up to which events were applied."""
        return self._runner.position

    @property
    def still(self) -> tuple[int, int]:
        """While it is the same this process has applied nothing."""
        return self._runner.still

    async def wait_for(self, position: int) -> None:
        """Return once events up to a position were applied."""
        await self._runner.wait_for(position)

    async def layouts(self, versions: Sequence[str]) -> dict[str, Layout]:
        """Return what views keep, by version."""
        return await self._runner.query(lambda connection: online.layouts(connection, versions))

    async def read(self, fn: Callable[[Store], T]) -> tuple[T, int]:
        """Return what `fn` reads in one transaction, so that signatures, states and position belong together."""
        # The cursor stands still while nothing concerns it, and what was read is then good for this position.
        still = self._runner.still
        return await self._runner.query(lambda connection: _read(connection, still, fn))


def _read(connection: Connection, still: tuple[int, int], fn: Callable[[Store], T]) -> tuple[T, int]:
    moment = projection_state.moment(connection)
    position = max(still[0], moment[0])
    return fn(_Transaction(connection, moment, Standing(still, position))), position


class _Transaction:
    def __init__(self, connection: Connection, moment: tuple[int, int], standing: Standing) -> None:
        self._connection = connection
        self.moment = moment
        self.standing = standing

    def signatures(self, views: Sequence[str], entities: Sequence[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        return online.signatures(self._connection, views, entities)

    def states(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes]]:
        return online.states(self._connection, wanted)
