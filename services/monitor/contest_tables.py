"""The read table of contests."""

from collections.abc import Sequence

from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    select,
    update,
)

from chassis.events import Event
from chassis.paging import last_position, page_size, page_token
from lineal.api.monitor.v1.contest_pb2 import Contest
from lineal.api.monitor.v1.events_pb2 import ContestResolved, PredictionContested
from services.monitor.contest import OPEN

_metadata = MetaData()
# `position` is that of the event that contested, which orders the queue.
_contests = Table(
    "contests",
    _metadata,
    Column("contest_id", String, primary_key=True),
    Column("position", BigInteger, index=True),
    Column("endpoint", String, index=True),
    Column("state", Integer, index=True),
    Column("body", LargeBinary),
)


class ContestTables:
    """Contests, and where each stands."""

    name = "contests"
    version = 1
    metadata = _metadata
    types: Sequence[type[Message]] = (PredictionContested, ContestResolved)

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the table by one event."""
        match event.message:
            case PredictionContested() as contested:
                contest = _contest(event, contested)
                values = {"position": event.position, "endpoint": contest.endpoint, "state": OPEN}
                connection.execute(
                    insert(_contests).values(contest_id=contest.contest_id, body=_body(contest), **values)
                )
            case ContestResolved() as resolved:
                found = contest_of(connection, resolved.contest_id)
                assert found is not None
                found.state, found.resolved_by, found.position = resolved.resolution, event.actor, event.position
                found.resolution_reason = resolved.reason
                found.resolve_time.FromDatetime(event.recorded_time)
                connection.execute(
                    update(_contests)
                    .where(_contests.c.contest_id == found.contest_id)
                    .values(state=found.state, body=_body(found))
                )


def contest_of(connection: Connection, contest_id: str) -> Contest | None:
    """Return a contest, None when there is none of that id."""
    body = connection.execute(select(_contests.c.body).where(_contests.c.contest_id == contest_id)).scalar()
    return None if body is None else Contest.FromString(body)


def contests_of(connection: Connection, endpoint: str, state: int, asked: int, token: str) -> tuple[list[Contest], str]:
    """Return a page of contests, oldest first, and the token of the next; an empty endpoint and state 0 are any."""
    query = select(_contests.c.position, _contests.c.body)
    query = query.where(_contests.c.position > last_position(token, newest_first=False))
    if endpoint:
        query = query.where(_contests.c.endpoint == endpoint)
    if state:
        query = query.where(_contests.c.state == state)
    rows = connection.execute(query.order_by(_contests.c.position).limit(page_size(asked) + 1)).all()
    found = rows[: page_size(asked)]
    following = page_token(str(found[-1].position)) if len(rows) > len(found) else ""
    return [Contest.FromString(row.body) for row in found], following


def _contest(event: Event, contested: PredictionContested) -> Contest:
    contest = Contest(
        contest_id=contested.contest_id,
        prediction_id=contested.prediction_id,
        endpoint=contested.endpoint,
        model=contested.model,
        bundle_digest=contested.bundle_digest,
        state=OPEN,
        reason=contested.reason,
        contested_by=event.actor,
        evidence_digest=contested.evidence_digest,
        position=event.position,
    )
    contest.contest_time.FromDatetime(event.recorded_time)
    if contested.HasField("due_time"):
        contest.due_time.CopyFrom(contested.due_time)
    return contest


def _body(contest: Contest) -> bytes:
    return contest.SerializeToString(deterministic=True)
