from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from google.protobuf.message import Message

from chassis.aggregate import Decider, EventTypeUnknown, Repository
from chassis.errors import Conflict, InvalidArgument, RuleViolated
from chassis.ids import new_request_id
from chassis.log import InMemoryLog
from lineal.api.ingest.v1.events_pb2 import BatchAccepted
from lineal.api.lineage.v1.record_pb2 import NewEvent


@dataclass(frozen=True)
class Batches:
    names: tuple[str, ...] = ()


class BatchKnown(RuleViolated):
    """The batch is there."""


def evolve(state: Batches, event: Message) -> Batches:
    assert isinstance(event, BatchAccepted)
    return replace(state, names=(*state.names, event.batch_id))


DECIDER = Decider(Batches(), evolve)


def accept(*names: str):  # type: ignore[no-untyped-def]
    def decide(state: Batches) -> Sequence[Message]:
        if known := set(names) & set(state.names):
            raise BatchKnown(f"{known} are there")
        return [BatchAccepted(dataset="d", batch_id=name) for name in names]

    return decide


@pytest.fixture
def log() -> InMemoryLog:
    return InMemoryLog()


@pytest.fixture
def batches(log: InMemoryLog) -> Repository[Batches]:
    return Repository(log, "batches", DECIDER)


async def test_an_aggregate_that_does_not_exist_is_at_its_initial_state(batches: Repository[Batches]) -> None:
    loaded = await batches.load("d")
    assert (loaded.state, loaded.revision) == (Batches(), 0)


async def test_a_decision_is_appended_and_folded(batches: Repository[Batches]) -> None:
    first = await batches.execute("d", request_id=new_request_id(), decide=accept("1", "2"))
    assert (first.state.names, first.position, first.repeated) == (("1", "2"), 2, False)
    second = await batches.execute("d", request_id=new_request_id(), decide=accept("3"))
    assert second.state.names == ("1", "2", "3")
    assert (await batches.load("d")).revision == 3


async def test_a_repeated_request_answers_from_its_events_and_decides_nothing(log: InMemoryLog) -> None:
    request_id = new_request_id()
    first = await Repository(log, "batches", DECIDER).execute("d", request_id=request_id, decide=accept("1", "2"))
    other = Repository(log, "batches", DECIDER)
    await other.execute("d", request_id=new_request_id(), decide=accept("3"))
    again = await other.execute("d", request_id=request_id.upper(), decide=accept("1", "2"))
    assert (again.events, again.position, again.repeated) == (first.events, first.position, True)
    assert again.state.names == ("1", "2", "3")


async def test_nothing_to_do_answers_with_the_streams_newest_position(batches: Repository[Batches]) -> None:
    await batches.execute("d", request_id=new_request_id(), decide=accept("1"))
    outcome = await batches.execute("d", request_id=new_request_id(), decide=lambda _: [])
    assert (outcome.events, outcome.position, outcome.state.names) == ([], 1, ("1",))


async def test_a_refusal_appends_nothing(batches: Repository[Batches], log: InMemoryLog) -> None:
    await batches.execute("d", request_id=new_request_id(), decide=accept("1"))
    with pytest.raises(BatchKnown):
        await batches.execute("d", request_id=new_request_id(), decide=accept("1"))
    assert await log.head() == 1


async def test_another_process_is_seen(log: InMemoryLog) -> None:
    one, two = Repository(log, "batches", DECIDER), Repository(log, "batches", DECIDER)
    await one.execute("d", request_id=new_request_id(), decide=accept("1"))
    await two.execute("d", request_id=new_request_id(), decide=accept("2"))
    assert (await one.load("d")).state.names == ("1", "2")
    with pytest.raises(BatchKnown):
        await one.execute("d", request_id=new_request_id(), decide=accept("2"))


class RacingLog(InMemoryLog):
    """Another writer that is always a little faster, so many times."""

    def __init__(self, races: int) -> None:
        super().__init__()
        self.races = races

    async def append(self, stream, messages, *, request_id, expected_revision, event_time=None):  # type: ignore[no-untyped-def]
        if self.races:
            self.races -= 1
            rival = BatchAccepted(dataset="d", batch_id=f"rival {self.races}")
            await super().append(stream, [rival], request_id=new_request_id(), expected_revision=None)
        return await super().append(
            stream, messages, request_id=request_id, expected_revision=expected_revision, event_time=event_time
        )


async def test_a_lost_race_is_decided_again_on_the_new_state() -> None:
    outcome = await Repository(RacingLog(3), "batches", DECIDER).execute(
        "d", request_id=new_request_id(), decide=accept("mine")
    )
    assert outcome.state.names == ("rival 2", "rival 1", "rival 0", "mine")


async def test_a_race_lost_too_often_is_a_conflict() -> None:
    with pytest.raises(Conflict):
        await Repository(RacingLog(9), "batches", DECIDER).execute(
            "d", request_id=new_request_id(), decide=accept("mine")
        )


async def test_a_request_id_must_be_a_uuid(batches: Repository[Batches]) -> None:
    with pytest.raises(InvalidArgument):
        await batches.execute("d", request_id="x", decide=accept("1"))


async def test_an_unknown_event_in_the_stream_is_not_passed_over(log: InMemoryLog) -> None:
    await log.append("batches/d", [NewEvent()], request_id=new_request_id(), expected_revision=0)
    log._records[0].type = "lineal.api.ingest.v9.FromTheFuture"
    with pytest.raises(EventTypeUnknown, match="FromTheFuture"):
        await Repository(log, "batches", DECIDER).load("d")


async def test_few_aggregates_are_kept_in_memory(log: InMemoryLog) -> None:
    batches = Repository(log, "batches", DECIDER, cached=2)
    for key in "abc":
        await batches.execute(key, request_id=new_request_id(), decide=accept("1"))
        await batches.load(key)
    assert list(batches._cache) == ["b", "c"]
    assert (await batches.load("a")).state.names == ("1",)
