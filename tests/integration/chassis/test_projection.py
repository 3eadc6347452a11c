"""Read tables: effect and cursor together, rebuilt to the same, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.message import Message
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, insert, select, update

from chassis.context import deadline_in
from chassis.errors import Unavailable
from chassis.events import Event
from chassis.ids import new_request_id
from chassis.log import InMemoryLog
from chassis.projection import ProjectionBehind, ProjectionRunner
from chassis.projection_places import Places, places_for
from lineal.api.ingest.v1.events_pb2 import BatchAccepted, SnapshotCreated

metadata = MetaData()
counts = Table(
    "counts", metadata, Column("dataset", Text, primary_key=True), Column("batches", Integer, nullable=False)
)


class Counts:
    name = "counts"
    metadata = metadata
    types: Sequence[type[Message]] = (BatchAccepted,)

    def __init__(
        self,
        version: int = 1,
        step: int = 1,
        poison: str = "",
        heals_after: int = 1000,
        error: Exception | None = None,
    ) -> None:
        self.version = version
        self.step = step
        self.poison = poison
        self.heals_after = heals_after
        self.error = error or ValueError("cannot swallow this")
        self.refused = 0

    def apply(self, connection: Connection, event: Event) -> None:
        batch = event.message
        assert isinstance(batch, BatchAccepted)
        if batch.batch_id == self.poison and self.refused < self.heals_after:
            self.refused += 1
            raise self.error
        here = counts.c.dataset == batch.dataset
        if connection.execute(select(counts).where(here)).first() is None:
            connection.execute(insert(counts).values(dataset=batch.dataset, batches=0))
        connection.execute(update(counts).where(here).values(batches=counts.c.batches + self.step))


def totals(connection: Connection) -> dict[str, int]:
    return {row.dataset: row.batches for row in connection.execute(select(counts))}


@pytest.fixture(params=["sqlite", "postgres"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return places_for(url, tmp_path)


@asynccontextmanager
async def running(projection: Counts, log: InMemoryLog, places: Places) -> AsyncIterator[ProjectionRunner]:
    runner = ProjectionRunner(projection, log, places)
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.close()


async def accept(log: InMemoryLog, dataset: str, *names: str) -> int:
    batches = [BatchAccepted(dataset=dataset, batch_id=name) for name in names]
    done = await log.append(f"batches/{dataset}", batches, request_id=new_request_id(), expected_revision=None)
    return done.position


async def test_a_reader_sees_what_was_written_before(places: Places) -> None:
    log = InMemoryLog()
    await accept(log, "a", "1", "2")
    async with running(Counts(), log, places) as runner:
        assert await runner.query(totals, min_position=2) == {"a": 2}
        for n in range(5):
            position = await accept(log, "b", str(n))
            assert (await runner.query(totals, min_position=position))["b"] == n + 1


async def test_events_of_other_types_move_the_position(places: Places) -> None:
    log = InMemoryLog()
    async with running(Counts(), log, places) as runner:
        made = SnapshotCreated(dataset="a")
        done = await log.append("dataset/a", [made], request_id=new_request_id(), expected_revision=None)
        assert await runner.query(totals, min_position=done.position) == {}
        assert runner.position == 1


async def test_a_reader_who_cannot_wait_is_told_how_far_it_is(places: Places) -> None:
    async with running(Counts(), InMemoryLog(), places) as runner:
        await runner.wait_for(0)
        with deadline_in(0.05), pytest.raises(ProjectionBehind, match="position 0, 7 is asked for"):
            await runner.query(totals, min_position=7)


async def test_a_restart_goes_on_where_it_was(places: Places) -> None:
    log = InMemoryLog()
    position = await accept(log, "a", "1", "2", "3")
    async with running(Counts(), log, places) as runner:
        await runner.wait_for(position)
    position = await accept(log, "a", "4")
    async with running(Counts(), log, places) as runner:
        assert await runner.query(totals, min_position=position) == {"a": 4}


async def test_two_runners_on_the_same_tables_apply_each_event_once(postgres_url: str, tmp_path: Path) -> None:
    places = places_for(postgres_url, tmp_path)
    log = InMemoryLog()
    async with running(Counts(), log, places) as one:
        await one.wait_for(0)
        async with running(Counts(), log, places) as two:
            for n in range(20):
                position = await accept(log, "a", str(n))
            assert await one.query(totals, min_position=position) == {"a": 20}
            assert await two.query(totals, min_position=position) == {"a": 20}


async def test_it_is_ready_once_it_has_read_the_history(places: Places) -> None:
    log = InMemoryLog()
    await accept(log, "a", "1")
    runner = ProjectionRunner(Counts(), log, places)
    with pytest.raises(ProjectionBehind):
        await runner.check()
    await runner.close()
    async with running(Counts(), log, places) as runner:
        async with asyncio.timeout(10):
            await runner.became_live()
        await runner.check()


async def test_an_event_that_cannot_be_applied_is_parked_and_the_rest_goes_on(places: Places) -> None:
    log = InMemoryLog()
    position = await accept(log, "a", "1", "2", "bad", "3")
    projection = Counts(poison="bad")
    async with running(projection, log, places) as runner:
        assert await runner.query(totals, min_position=position) == {"a": 3}
        await runner.became_live()
        await runner.check()
        (parked,) = await runner.parked()
        assert (parked.position, parked.stream, parked.tries) == (3, "batches/a", 5)
        assert parked.type.endswith("BatchAccepted")
        assert parked.error == "ValueError: cannot swallow this"
        assert projection.refused == 5
        assert await runner.query(totals, min_position=await accept(log, "b", "1")) == {"a": 3, "b": 1}


async def test_parked_events_outlive_a_restart_and_are_replayed_once(places: Places) -> None:
    log = InMemoryLog()
    position = await accept(log, "a", "1", "bad", "2")
    async with running(Counts(poison="bad"), log, places) as runner:
        await runner.wait_for(position)
        assert await runner.replay() == []
        assert [(parked.position, parked.tries) for parked in await runner.parked()] == [(2, 6)]
    async with running(Counts(), log, places) as repaired:
        assert await repaired.query(totals, min_position=position) == {"a": 2}
        assert await repaired.replay([1]) == []
        still = repaired.still
        assert await repaired.replay([2]) == [2]
        assert repaired.still != still
        assert await repaired.replay() == []
        assert await repaired.parked() == []
        assert await repaired.query(totals) == {"a": 3}
        found = await repaired.verify()
    assert found.live_digest == found.rebuilt_digest


async def test_a_rebuild_parks_the_same_event(places: Places) -> None:
    log = InMemoryLog()
    position = await accept(log, "a", "1", "bad", "2")
    async with running(Counts(poison="bad"), log, places) as runner:
        await runner.wait_for(position)
        before = await runner.parked()
        found = await runner.verify()
        assert found.live_digest == found.rebuilt_digest
        assert (found.live_parked, found.rebuilt_parked) == (1, 1)
    places.drop_all()
    async with running(Counts(poison="bad"), log, places) as rebuilt:
        await rebuilt.wait_for(position)
        assert await rebuilt.parked() == before


async def test_a_cause_that_goes_away_parks_nothing(places: Places) -> None:
    log = InMemoryLog()
    position = await accept(log, "a", "1", "bad", "2")
    async with running(Counts(poison="bad", heals_after=4), log, places) as runner:
        assert await runner.query(totals, min_position=position) == {"a": 3}
        assert await runner.parked() == []


async def test_a_dependency_that_is_away_parks_nothing(places: Places) -> None:
    log = InMemoryLog()
    position = await accept(log, "a", "1", "bad")
    runner = ProjectionRunner(Counts(poison="bad", error=Unavailable("the store is away")), log, places)
    with pytest.raises(Unavailable, match="the store is away"):
        await runner.run()
    await runner.close()
    async with running(Counts(), log, places) as runner:
        assert await runner.query(totals, min_position=position) == {"a": 2}
        assert await runner.parked() == []


async def test_two_runners_on_the_same_tables_park_an_event_once(postgres_url: str, tmp_path: Path) -> None:
    places = places_for(postgres_url, tmp_path)
    log = InMemoryLog()
    position = await accept(log, "a", "1", "bad", "2")
    async with running(Counts(poison="bad"), log, places) as one, running(Counts(poison="bad"), log, places) as two:
        assert await one.query(totals, min_position=position) == {"a": 2}
        assert await two.query(totals, min_position=position) == {"a": 2}
        assert [parked.position for parked in await one.parked()] == [2]


async def test_a_new_version_is_built_beside_the_old_which_then_goes(places: Places) -> None:
    log = InMemoryLog()
    position = await accept(log, "a", "1", "2")
    async with running(Counts(version=1), log, places) as old:
        await old.wait_for(position)
    async with running(Counts(version=2, step=10), log, places) as new, asyncio.timeout(10):
        await new.became_live()
        assert await new.query(totals, min_position=position) == {"a": 20}
    dropped = places.drop_all()
    assert len(dropped) == 1
    assert dropped[0].endswith("v2")


async def test_dropped_tables_are_rebuilt_to_the_same(places: Places) -> None:
    log = InMemoryLog()
    await accept(log, "a", "1", "2")
    position = await accept(log, "b", "1")
    async with running(Counts(), log, places) as runner:
        await runner.wait_for(position)
        before = await runner.verify()
    places.drop_all()
    async with running(Counts(), log, places) as runner:
        await runner.wait_for(position)
        after = await runner.verify()
    assert before == after
    assert (before.position, before.rows) == (3, 2)
    assert before.live_digest == before.rebuilt_digest


async def test_verification_finds_a_changed_row(places: Places) -> None:
    log = InMemoryLog()
    position = await accept(log, "a", "1", "2")
    async with running(Counts(), log, places) as runner:
        await runner.wait_for(position)
    database = places.open("counts", 1)
    with database.writer.begin() as connection:
        connection.execute(update(counts).values(batches=99))
    database.close()
    async with running(Counts(), log, places) as runner:
        found = await runner.verify()
    assert found.live_digest != found.rebuilt_digest
