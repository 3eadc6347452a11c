"""Commands about proofs: prove, verify, keys."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lineal import proof
from lineal.api.lineage.v1 import proof_service_pb2 as api
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.cli.output import moment, plain, progress, say, short, show
from lineal.cli.work import connect
from lineal.client import new_request_id
from lineal.errors import LinealError
from lineal.notes import NoteWrong, PublicKey
from lineal.proof import Proven
from lineal.served import Served, ServedRow

_SHOWN_ROWS = 8
Key = Annotated[
    str, typer.Option("--key", help="Public key of the log, or a file that holds it; `lineal keys` prints it.")
]


def prove(
    prediction: Annotated[str, typer.Argument(help="Id of a prediction.")] = "",
    event: Annotated[int, typer.Option("--event", help="Position of an event, instead of a prediction.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    rows: Annotated[
        bool, typer.Option("--rows/--no-rows", help="With the rows behind looked-up features, at most 10,000 a view.")
    ] = True,
) -> None:
    """Write a proof that a prediction, or an event, is in the log: anybody can check it with the public key."""
    if bool(prediction) == bool(event):
        raise LinealError("name a prediction, or an event with --event")
    with connect() as client:
        if event:
            made = proof.of_event(client.services, event)
        else:
            made = proof.of_prediction(client.services, prediction, rows=rows)
    path = output or Path(f"{prediction.replace('/', '-') or event}.proof.json")
    path.write_text(_written(made), encoding="utf-8")
    show({"file": str(path)}, ("proof", "bytes"), [(str(path), f"{path.stat().st_size:,}")])


def verify(
    key: Key,
    file: Annotated[Path | None, typer.Argument(help="A proof file; without one the whole log is read.")] = None,
) -> None:
    """Check a proof file with nothing but the public key; without a file, check every event of the running log."""
    trusted = _key(key)
    if file is None:
        with connect() as client, progress() as display:
            task = display.add_task("reading the log")
            checkpoint = proof.audit(
                client.services, trusted, lambda read, size: display.update(task, completed=read, total=size)
            )
        value = {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}
        rows = [("checkpoint", f"{checkpoint.origin}, {checkpoint.size:,} events, root {checkpoint.root.hex()[:12]}")]
        show(value, ("holds", "what"), rows)
        return
    proven = proof.check(read_proof(file), trusted)
    show(_value(proven), ("holds", "what"), _layers(proven))


def keys(
    rotate: Annotated[bool, typer.Option("--rotate", help="Sign with a new key from now on.")] = False,
) -> None:
    """Show the public keys that sign the log's checkpoints, the newest last."""
    with connect() as client:
        if rotate:
            client.services.proofs.call("RotateKey", api.RotateKeyRequest(request_id=new_request_id()))
        found = client.services.proofs.call("ListKeys", api.ListKeysRequest())
    show(found, ("log", "public key"), [(found.origin, key) for key in found.keys])
    if rotate:
        say("Whoever trusts an earlier key trusts the new one: each vouches for the next.")


def read_proof(file: Path) -> Any:
    """Return the JSON of a proof file. Raises LinealError when a byte of it is not as `lineal prove` writes it."""
    try:
        text = file.read_text(encoding="utf-8")
        given = json.loads(text)
    except FileNotFoundError:
        raise LinealError(f"there is no file {file}") from None
    except ValueError as error:
        raise LinealError(f"file: {file} is no proof: {error}") from None
    if _written(given) != text:
        raise LinealError(f"file: {file} was changed: its JSON is not written as `lineal prove` writes it")
    return given


def _written(made: Any) -> str:
    return json.dumps(made, indent=1) + "\n"


def _key(text: str) -> PublicKey:
    path = Path(text)
    try:
        return PublicKey.parse(path.read_text(encoding="utf-8") if path.is_file() else text)
    except NoteWrong as error:
        raise LinealError(f"--key: {error}") from None


def _layers(proven: Proven) -> list[tuple[str, str]]:
    event = proven.event
    rows = [
        ("checkpoint", f"{proven.checkpoint.origin} signed {proven.checkpoint.size:,} events"),
        ("log", f"event {event.position:,} is among them: {event.type} of {moment(event, 'recorded_time')}"),
    ]
    if proven.prediction is not None:
        record = proven.prediction
        rows.append(("segment", "the event holds the root of a segment of predictions"))
        rows.append(("prediction", f"{record.prediction_id}, score {record.score:.6g} by {_answering(record)}"))
    rows += [("manifest", _named(manifest)) for manifest in proven.manifests]
    return rows + (_behind(proven.served) if proven.served is not None else [])


def _answering(record: PredictionRecord) -> str:
    return f"bundle {short(record.bundle_digest)}" if record.bundle_digest else "the endpoint's fallback"


def _behind(served: Served) -> list[tuple[str, str]]:
    if served.feature_set is None:
        return [("row", "nothing was looked up: all features came with the request")]
    declared = served.feature_set
    rows = [
        (
            "definition",
            f"feature set {declared.feature_set.name} {short(declared.version)} over {len(served.views)} views",
        )
    ]
    batches: dict[tuple[str, str], list[ServedRow]] = {}
    for row in served.rows:
        batches.setdefault((row.dataset.name, row.batch_id), []).append(row)
    for (dataset, batch), held in sorted(batches.items()):
        where = "which a snapshot above holds" if held[0].in_snapshot else "in the log, after the snapshots above"
        rows.append(("batch", f"{batch} of {dataset} at log position {held[0].position:,}, {where}"))
        numbers = ", ".join(str(row.row) for row in held[:_SHOWN_ROWS])
        more = f" and {len(held) - _SHOWN_ROWS:,} more" if len(held) > _SHOWN_ROWS else ""
        rows.append(("row", f"{numbers}{more} of it: {len(held):,} of the rows behind the features"))
    return rows if batches else [*rows, ("row", "none was known of the prediction's entities")]


def _named(manifest: dict[str, Any]) -> str:
    if "training_set_digest" in manifest:
        return f"bundle of model {manifest['model']}, trained by run {manifest['run_id']}"
    if "snapshots" in manifest:
        return f"training set of {', '.join(sorted(manifest['snapshots']))}"
    return f"snapshot of {manifest['dataset']} at log position {manifest['as_of_position']}, {manifest['rows']:,} rows"


def _value(proven: Proven) -> dict[str, Any]:
    return {
        "checkpoint": {"origin": proven.checkpoint.origin, "size": proven.checkpoint.size},
        "event": plain(proven.event),
        "prediction": plain(proven.prediction),
        "manifests": proven.manifests,
        "rows": None if proven.served is None else [_row_value(row) for row in proven.served.rows],
    }


def _row_value(row: ServedRow) -> dict[str, Any]:
    return {
        "dataset": row.dataset.name,
        "batch_id": row.batch_id,
        "position": row.position,
        "row": row.row,
        "in_snapshot": row.in_snapshot,
        "values": row.values,
    }
