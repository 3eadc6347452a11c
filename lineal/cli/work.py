"""Commands that change something: definitions, data, predictions, releases."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import typer

from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaState
from lineal.cli.files import Columns, File, RowNumber, Separator, read_table, stem
from lineal.cli.output import options, progress, say, short, show
from lineal.client import Client, Ingested, new_request_id

_WORDS = {
    SagaState.SAGA_STATE_ACTIVE: "under way",
    SagaState.SAGA_STATE_COMPLETED: "completed",
    SagaState.SAGA_STATE_COMPENSATED: "undone",
}
Endpoint = Annotated[str, typer.Argument(help="Name of the endpoint.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; goes into the log.")]
BatchId = Annotated[str, typer.Option("--batch-id", help="Name of the batch; the file's name by default.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the saga to its end.")]


def connect() -> Client:
    """Return a client for `--connect`."""
    return Client(options.connect)


def apply(folder: Annotated[Path, typer.Argument(help="Folder of YAML definitions.")]) -> None:
    """Register the definitions of a project folder."""
    with connect() as client:
        applied = client.apply(folder)
    show(applied_json(applied), ("kind", "name", "position"), [(a.kind, a.name, a.position) for a in applied])


def ingest(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    file: File,
    batch_id: BatchId = "",
    separator: Separator = ",",
    columns: Columns = "",
    row_number: RowNumber = "",
) -> None:
    """Send the rows of a file to a dataset."""
    table = read_table(file, separator, columns, row_number)
    with connect() as client, progress() as bar:
        task = bar.add_task(f"rows of {file.name}", total=len(table))
        done = client.ingest(
            dataset, table, batch_id=batch_id or stem(file), progress=lambda rows: bar.advance(task, rows)
        )
    _show_ingested(done)


def outcomes(
    dataset: Annotated[str, typer.Argument(help="Name of the label dataset.")],
    file: File,
    batch_id: BatchId = "",
    separator: Separator = ",",
    columns: Columns = "",
    row_number: RowNumber = "",
) -> None:
    """Send late labels; monitor joins them with their predictions."""
    ingest(dataset, file, batch_id, separator, columns, row_number)


def train(
    endpoint: Endpoint,
    start: Annotated[datetime | None, typer.Option(help="Start of the training range, UTC.")] = None,
    end: Annotated[
        datetime | None, typer.Option(help="End of the training range, UTC; the latest row by default.")
    ] = None,
    reason: Reason = "asked for on the command line",
    wait: Wait = True,
) -> None:
    """Train a candidate on what is known, and release it."""
    with connect() as client:
        _follow(client, client.train(endpoint, reason=reason, start=_utc(start), end=_utc(end)), wait)


def release(
    endpoint: Endpoint,
    bundle: Annotated[str, typer.Argument(help="Digest of the bundle, or its first 8 characters or more.")],
    reason: Reason = "asked for on the command line",
    wait: Wait = True,
) -> None:
    """Release a bundle: shadow, canary, then champion; or undone."""
    with connect() as client:
        _follow(client, client.release(endpoint, bundle, reason=reason), wait)


def rollback(
    endpoint: Endpoint,
    reason: Reason = "asked for on the command line",
    wait: Wait = True,
) -> None:
    """Bring the previous champion back."""
    with connect() as client:
        _follow(client, client.rollback(endpoint, reason=reason), wait)


def import_model(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    file: Annotated[Path, typer.Argument(help="A CatBoost .cbm file.")],
    description: Annotated[str, typer.Option(help="What a person should know about it.")] = "",
) -> None:
    """Make a bundle of a model that was trained elsewhere."""
    with connect() as client:
        digest = client.import_model(model, file, description=description)
    show({"bundle_digest": digest}, ("bundle", "next"), [(digest, f"lineal approve {short(digest)}")])


def approve(
    name: Annotated[str, typer.Argument(help="Digest of a bundle, or id of a saga that waits.")],
    reason: Reason = "asked for on the command line",
) -> None:
    """Approve a bundle, or let a waiting saga go on."""
    with connect() as client:
        saga = _saga_of(client, name)
        if saga:
            request = registry_api.ApproveSagaRequest(
                request_id=new_request_id(), endpoint=saga.endpoint, saga_id=saga.saga_id, reason=reason
            )
            client.services.registry.call("ApproveSaga", request)
        else:
            client.approve(name, reason)
    say(f"approved {name}")


def reject(
    name: Annotated[str, typer.Argument(help="Digest of a bundle, or id of a saga.")],
    reason: Reason = "asked for on the command line",
) -> None:
    """Bar a bundle from release, or stop a saga, which undoes what it did."""
    with connect() as client:
        saga = _saga_of(client, name)
        if saga:
            request: Any = registry_api.RejectSagaRequest(
                request_id=new_request_id(), endpoint=saga.endpoint, saga_id=saga.saga_id, reason=reason
            )
            client.services.registry.call("RejectSaga", request)
        else:
            request = registry_api.RejectBundleRequest(request_id=new_request_id(), bundle_digest=name, reason=reason)
            client.services.registry.call("RejectBundle", request)
    say(f"rejected {name}")


def suspend(endpoint: Endpoint, reason: Reason = "asked for on the command line") -> None:
    """Stop all answers of an endpoint, but its fallback's where it declares one for that, until `lineal resume`.

    Whatever is restarted meanwhile.
    """
    request = registry_api.SuspendEndpointRequest(request_id=new_request_id(), name=endpoint, reason=reason)
    with connect() as client:
        client.services.registry.call("SuspendEndpoint", request)
        found = client.services.registry.call("GetEndpoint", registry_api.GetEndpointRequest(name=endpoint))
    what = "its fallback alone" if found.endpoint.fallback.when_suspended else "nothing"
    say(f"{endpoint} answers {what} any more; `lineal resume {endpoint}` lets its models answer again")


def resume(endpoint: Endpoint, reason: Reason = "asked for on the command line") -> None:
    """Let a suspended endpoint answer again."""
    request = registry_api.ResumeEndpointRequest(request_id=new_request_id(), name=endpoint, reason=reason)
    with connect() as client:
        client.services.registry.call("ResumeEndpoint", request)
    say(f"{endpoint} answers again")


def predict(
    endpoint: Endpoint,
    file: File,
    key: Annotated[str | None, typer.Option(help="Column whose value picks the arm of each row.")] = None,
    event_time: Annotated[str | None, typer.Option(help="Column with the time that features are as of.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answers to this .csv or .parquet file.")] = None,
    separator: Separator = ",",
    columns: Columns = "",
    row_number: RowNumber = "",
) -> None:
    """Score the rows of a file."""
    rows: pd.DataFrame = read_table(file, separator, columns, row_number).to_pandas()
    times = pd.to_datetime(rows.pop(event_time), utc=True) if event_time else None
    with connect() as client:
        answers = client.predict(endpoint, rows, key=key, event_time=times)
    if out is not None:
        table = pa.Table.from_pandas(answers, preserve_index=False)
        if out.suffix == ".csv":
            pyarrow.csv.write_csv(table, out)
        else:
            pq.write_table(table, out)
        say(f"{len(answers):,} answers in {out}")
        return
    shown = ("prediction_id", "score", "decision", "arm", "bundle_digest", "unusual")
    rows_shown = [
        (row.prediction_id, row.score, row.decision, row.arm, short(str(row.bundle_digest)), _unusual(row.flags))
        for row in answers.itertuples()
    ]
    show(answers.to_dict("records"), shown, rows_shown[:20])
    if len(answers) > 20:
        say(f"… and {len(answers) - 20:,} more; `--out` writes all of them")


def _unusual(flags: Any) -> str:
    return "not known" if flags is None else str(flags)


def applied_json(applied: list[Any]) -> list[dict[str, Any]]:
    """Return what was applied as JSON has it."""
    return [{"kind": a.kind, "name": a.name, "position": a.position} for a in applied]


def _show_ingested(done: Ingested) -> None:
    show(
        {
            "accepted": done.accepted,
            "quarantined": done.quarantined,
            "reasons": done.reasons,
            "position": done.position,
            "repeated": done.repeated,
            "warned": done.warned,
            "warnings": done.warnings,
        },
        ("accepted", "quarantined", "warned", "position", ""),
        [(done.accepted, done.quarantined, done.warned, done.position, "sent before" if done.repeated else " ")],
    )
    for reason, count in done.reasons.items():
        say(f"  {count:,} × {reason}")
    for warning, count in done.warnings.items():
        say(f"  {count:,} × {warning}")


def _follow(client: Client, saga_id: str, wait: bool) -> None:
    if not wait:
        show({"saga_id": saga_id}, ("saga",), [(saga_id,)])
        return
    shown, last = 0, None
    for last in client.watch_saga(saga_id):
        for step in last.steps[shown:]:
            say(f"  {step.step}: {step.finding}")
        shown = len(last.steps)
    assert last is not None
    show(last, ("saga", "state", "outcome"), [(saga_id, _WORDS[last.state], last.outcome)])
    if last.state != SagaState.SAGA_STATE_COMPLETED:
        sys.exit(1)


def _saga_of(client: Client, name: str) -> Saga | None:
    # Digests are hexadecimal; the id of a saga begins with its kind and a hyphen.
    return client.saga(name) if "-" in name else None


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
