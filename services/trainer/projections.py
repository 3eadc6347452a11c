"""Read tables of the trainer: its runs."""

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
from lineal.api.trainer.v1.events_pb2 import ModelImported, RunCompleted, RunFailed, RunStarted
from lineal.api.trainer.v1.run_pb2 import Run, RunState

_metadata = MetaData()
_runs = Table(
    "runs",
    _metadata,
    Column("run_id", String, primary_key=True),
    Column("model", String, index=True),
    Column("state", Integer, index=True),
    Column("start_position", BigInteger, index=True),
    Column("body", LargeBinary),
)


class TrainerTables:
    """The projection of runs."""

    name = "trainer"
    version = 1
    metadata = _metadata
    types: Sequence[type[Message]] = (RunStarted, RunCompleted, RunFailed, ModelImported)

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event."""
        run_id = event.stream.partition("/")[2]
        known = run(connection, run_id)
        changed = _evolved(known or Run(run_id=run_id), event)
        values = {"state": changed.state, "body": changed.SerializeToString(deterministic=True)}
        if known is None:
            connection.execute(
                insert(_runs).values(run_id=run_id, model=changed.model, start_position=event.position, **values)
            )
        else:
            connection.execute(update(_runs).where(_runs.c.run_id == run_id).values(**values))


def run(connection: Connection, run_id: str) -> Run | None:
    """Return a run, None when there is none of that id."""
    body = connection.execute(select(_runs.c.body).where(_runs.c.run_id == run_id)).scalar()
    return None if body is None else Run.FromString(body)


def running(connection: Connection) -> list[Run]:
    """Return the runs under way, oldest first."""
    query = select(_runs.c.body).where(_runs.c.state == RunState.RUN_STATE_RUNNING).order_by(_runs.c.start_position)
    return [Run.FromString(body) for body in connection.execute(query).scalars()]


def runs_of(connection: Connection, model: str, asked: int, token: str) -> tuple[list[Run], str]:
    """Return a page of runs, newest first, and the token of the next."""
    query = select(_runs.c.body, _runs.c.start_position).where(_runs.c.start_position < last_position(token))
    if model:
        query = query.where(_runs.c.model == model)
    rows = connection.execute(query.order_by(_runs.c.start_position.desc()).limit(page_size(asked) + 1)).all()
    found = rows[: page_size(asked)]
    following = page_token(str(found[-1].start_position)) if len(rows) > len(found) else ""
    return [Run.FromString(row.body) for row in found], following


def _evolved(run: Run, event: Event) -> Run:
    run.position = event.position
    match event.message:
        case RunStarted() as started:
            run.model = started.model
            run.training_set_digest = started.training_set_digest
            run.parameters.CopyFrom(started.parameters)
            run.state = RunState.RUN_STATE_RUNNING
            run.start_time.FromDatetime(event.recorded_time)
        case RunCompleted() as completed:
            run.bundle_digest = completed.bundle_digest
            run.metrics.extend(completed.metrics)
            run.state = RunState.RUN_STATE_COMPLETED
            run.end_time.FromDatetime(event.recorded_time)
        case RunFailed() as failed:
            run.failure = failed.failure
            run.state = RunState.RUN_STATE_FAILED
            run.end_time.FromDatetime(event.recorded_time)
        case ModelImported() as imported:
            run.model = imported.model
            run.bundle_digest = imported.bundle_digest
            run.state = RunState.RUN_STATE_COMPLETED
            run.start_time.FromDatetime(event.recorded_time)
            run.end_time.FromDatetime(event.recorded_time)
    return run
