"""The quarantine of a dataset: which of its rows are settled. Each row is settled once, whatever it came to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from google.protobuf.message import Message

from chassis.aggregate import Decider
from chassis.errors import Conflict, FieldViolation, InvalidArgument, RuleViolated
from lineal.api.ingest.v1.events_pb2 import (
    BatchAccepted,
    QuarantinedRowsDiscarded,
    QuarantinedRowsFixed,
    QuarantinedRowsReleased,
)

# Batches of rows that come out of quarantine have names that no sender may give.
RESERVED = "quarantine:"
MOST_ROWS = 10_000
Settlement = QuarantinedRowsFixed | QuarantinedRowsReleased | QuarantinedRowsDiscarded


class RowSettled(RuleViolated):
    """A quarantined row was fixed, released or discarded before."""


class QuarantineRequestInvalid(InvalidArgument):
    """A request does not say which rows, or why."""


class QuarantineChanged(Conflict):
    """Rows of the same batch were accepted meanwhile, which the keys of these were not compared with."""


@dataclass(frozen=True)
class QuarantineState:
    """What the stream `quarantine/<dataset>` says."""

    # Settled rows by batch.
    settled: Mapping[str, frozenset[int]] = field(default_factory=dict)
    # Batches that rows of a batch were accepted in.
    accepted: Mapping[str, tuple[BatchAccepted, ...]] = field(default_factory=dict)

    def from_batch(self, batch_id: str) -> tuple[BatchAccepted, ...]:
        """Return the batches that rows of a batch were accepted in."""
        return self.accepted.get(batch_id, ())

    def named(self, batch_id: str) -> BatchAccepted | None:
        """Return a batch of rows that came out of quarantine."""
        return next((b for found in self.accepted.values() for b in found if b.batch_id == batch_id), None)


def evolve(state: QuarantineState, event: Message) -> QuarantineState:
    """Change the state by one event."""
    match event:
        case QuarantinedRowsFixed() | QuarantinedRowsReleased() | QuarantinedRowsDiscarded():
            rows = state.settled.get(event.batch_id, frozenset()) | set(event.rows)
            return replace(state, settled={**state.settled, event.batch_id: rows})
        case BatchAccepted():
            name = event.quarantine_batch_id
            return replace(state, accepted={**state.accepted, name: (*state.from_batch(name), event)})
        case _:
            return state


decider = Decider(initial=QuarantineState(), evolve=evolve)


def check(rows: Sequence[int], reason: str, *, all_allowed: bool) -> None:
    """Refuse a request that does not name its rows, or why."""
    if not reason.strip():
        raise QuarantineRequestInvalid("no reason is given", [FieldViolation("reason", "say why, for those who ask")])
    if len(set(rows)) != len(rows):
        raise QuarantineRequestInvalid("a row is named twice", [FieldViolation("rows", "name each row once")])
    if len(rows) > MOST_ROWS or not (rows or all_allowed):
        raise QuarantineRequestInvalid(
            f"{len(rows):,} rows are named", [FieldViolation("rows", f"name 1 to {MOST_ROWS:,} rows")]
        )


def open_rows(state: QuarantineState, dataset: str, batch_id: str, refused: Collection[int]) -> list[int]:
    """Return the rows of a batch that are not settled, in order. Raises RowSettled when there are none."""
    left = sorted(set(refused) - state.settled.get(batch_id, frozenset()))
    if not left:
        raise RowSettled(f"every quarantined row of batch {batch_id!r} of {dataset} is settled")
    return left


def settle(state: QuarantineState, event: Settlement, compared: int, batch: BatchAccepted | None) -> list[Message]:
    """Settle rows: the event, and the batch that they are accepted in.

    `compared` is how many batches from the same one their keys were compared with.
    Raises RowSettled, QuarantineChanged.
    """
    check_open(state, event)
    if batch is None:
        return [event]
    if len(state.from_batch(event.batch_id)) != compared:
        raise QuarantineChanged(f"other rows of batch {event.batch_id!r} were accepted meanwhile; send this again")
    return [event, batch]


def check_open(state: QuarantineState, event: Settlement) -> None:
    """Refuse to settle rows again. Raises RowSettled."""
    again = sorted(set(event.rows) & state.settled.get(event.batch_id, frozenset()))
    if again:
        shown = ", ".join(map(str, again[:10])) + (", ..." if len(again) > 10 else "")
        raise RowSettled(
            f"{len(again)} of these rows of batch {event.batch_id!r} of {event.dataset} are settled already: {shown}; "
            "`lineal quarantine list` shows those that are not"
        )
