"""Commands that only look: alarms, sagas, bundles, runs, trace, explain."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.tree import Tree

from lineal.answers import flags_text
from lineal.api.monitor.v1.report_pb2 import AlarmKind
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import SagaKind, SagaState
from lineal.api.registry.v1.model_pb2 import BundleState
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from lineal.api.trainer.v1 import trainer_service_pb2 as trainer_api
from lineal.api.trainer.v1.run_pb2 import RunState
from lineal.cli.output import console, moment, options, plain, say, short, show
from lineal.cli.work import connect
from lineal.errors import LinealError
from lineal.explain import View, differences
from lineal.reasons import explained
from lineal.trace import Trace, served
from lineal.trace import trace as follow

_SHOWN_ROWS = 3
Endpoint = Annotated[str, typer.Option("--endpoint", "-e", help="Only of this endpoint.")]


def alarms(endpoint: Endpoint = "") -> None:
    """List what monitor has found that calls for action, newest first."""
    with connect() as client:
        found = client.alarms(endpoint)
    rows = [
        (
            moment(alarm, "raise_time"),
            alarm.endpoint,
            word(AlarmKind, alarm.kind),
            moment(alarm, "period_end_time"),
            alarm.finding,
        )
        for alarm in found
    ]
    show(found, ("raised", "endpoint", "kind", "period's end", "finding"), rows)


def sagas(
    saga_id: Annotated[str, typer.Argument(help="Id of one saga, to see its steps.")] = "", endpoint: Endpoint = ""
) -> None:
    """List sagas, newest first; or the steps of one."""
    with connect() as client:
        if saga_id:
            saga = client.saga(saga_id)
            rows = [(moment(s, "report_time"), s.step, s.finding, short(s.evidence_digest)) for s in saga.steps]
            title = f"{saga.saga_id}: {word(SagaState, saga.state)}. {saga.outcome}"
            show(saga, ("at", "step", "finding", "evidence"), rows, title=title)
            return
        found = client.sagas(endpoint)
    listed = [
        (
            saga.saga_id,
            word(SagaKind, saga.kind),
            word(SagaState, saga.state),
            saga.requested_by,
            saga.outcome or saga.reason,
        )
        for saga in found
    ]
    show(found, ("saga", "kind", "state", "asked by", "outcome"), listed)


def bundles(model: Annotated[str, typer.Option(help="Only of this model.")] = "") -> None:
    """List bundles, newest first."""
    with connect() as client:
        found = client.services.registry.call("ListBundles", registry_api.ListBundlesRequest(model=model)).bundles
    rows = [
        (
            short(bundle.digest),
            bundle.model,
            word(BundleState, bundle.state),
            "; ".join(gate.finding for gate in bundle.gates if not gate.passed),
            bundle.decided_by,
        )
        for bundle in found
    ]
    show(list(found), ("bundle", "model", "state", "failed gates", "decided by"), rows)


def card(bundle: Annotated[str, typer.Argument(help="Digest of a bundle, or its first characters.")]) -> None:
    """Show the card of a bundle: how it was made, and what it showed on untouched rows, by group too."""
    with connect() as client:
        known = client.services.registry.call("ListBundles", registry_api.ListBundlesRequest()).bundles
        digests = [each.digest for each in known if each.digest.startswith(bundle)]
        if len(digests) > 1:
            raise LinealError(f"{len(digests)} bundles begin with {bundle!r}; give more of the digest")
        request = trainer_api.GetCardRequest(bundle_digest=digests[0] if digests else bundle)
        text = client.services.trainer.call("GetCard", request).markdown
    if options.json:
        show({"markdown": text})
    else:
        console.print(text, end="", markup=False, highlight=False, soft_wrap=True)


def runs(model: Annotated[str, typer.Option(help="Only of this model.")] = "") -> None:
    """List training runs, newest first."""
    with connect() as client:
        found = client.services.trainer.call("ListRuns", trainer_api.ListRunsRequest(model=model)).runs
    rows = [
        (
            run.run_id,
            run.model,
            word(RunState, run.state),
            ", ".join(f"{metric.name} {metric.value:.4f}" for metric in run.metrics[:3]),
            short(run.bundle_digest) or run.failure,
        )
        for run in found
    ]
    show(list(found), ("run", "model", "state", "metrics", "bundle"), rows)


def trace(
    prediction: Annotated[str, typer.Argument(help="Id of a prediction.")],
    data: Annotated[Path, typer.Option("--data", help="Data folder, for its spans.", envvar="LINEAL_DATA_DIR")] = Path(
        "data"
    ),
) -> None:
    """Follow a prediction to its bundle, run, training set, snapshots and raw rows."""
    with connect() as client:
        found = follow(client.services, prediction, telemetry=data / "telemetry")
    if options.json:
        show(trace_json(found))
        return
    console.print(trace_tree(found))


def explain(
    prediction: Annotated[str, typer.Argument(help="Id of a prediction.")],
    limit: Annotated[int, typer.Option("--limit", "-n", help="Show so many columns; 0 is all.", min=0)] = 12,
) -> None:
    """Show how much each column moved a prediction's score (exact SHAP values), and the reasons to tell."""
    with connect() as client:
        response = explained(client.services, prediction)
    found = response.explanations[0]
    rows = [
        (each.column, str(getattr(each, each.WhichOneof("value") or "", "")), f"{each.contribution:+.4f}")
        for each in found.contributions[: limit or None]
    ]
    show(response, ("column", "value", "contribution"), rows)
    if not options.json:
        raw = f"raw score {found.raw_score:.4f}, where {found.expected_raw_score:.4f} is expected"
        console.print(f"score {found.score:.4f}; {raw} and the columns' contributions make the difference")
        say_reasons(response)


def say_reasons(response: serving_api.ExplainResponse) -> None:
    """Tell the reasons of one explained prediction, or why there are none."""
    if response.without_reasons:
        say(f"no reasons: {response.without_reasons}")
        return
    (found,), basis = response.explanations, response.basis
    say(f"reasons {'against' if found.adverse else 'for'} this decision, reviewed by {basis.reviewed_by}:")
    for number, reason in enumerate(found.reasons, 1):
        text = f"{reason.code}: {reason.text}" if reason.code else "no reviewed reason covers this column"
        say(f"  {number}. {text} ({', '.join(reason.columns)} {reason.contribution:+.4f})")
    rows = (
        f"{basis.reference_rows} rows of {short(basis.reference_digest)}"
        if basis.reference_rows
        else "the model's mean"
    )
    say(f"in comparison with {rows}; policy {short(basis.policy_digest)}")


def trace_json(found: Trace) -> dict[str, Any]:
    """Return a trace as JSON has it."""
    return {
        "prediction": plain(found.prediction),
        "bundle": plain(found.bundle) if found.bundle else None,
        "run": plain(found.run),
        "training_set": plain(found.training_set),
        "snapshots": [{**plain(s), "profile_json": None} for s in found.snapshots],
        "views": [asdict(view) for view in found.views],
        "spans": found.spans,
    }


def _again(profile_json: str) -> str:
    profile = json.loads(profile_json)
    repeated, corrected = (profile.get(f"{name}_rows", 0) for name in ("repeated", "corrected"))
    return f", {repeated:,} repeated and {corrected:,} corrected" if repeated or corrected else ""


def trace_tree(found: Trace) -> Tree:
    """Draw a trace."""
    record = found.prediction.prediction
    tree = Tree(f"[bold]prediction {record.prediction_id}[/bold]")
    outcome = f"{found.prediction.outcome:g}" if found.prediction.HasField("outcome") else "has not come"
    tree.add(f"score {record.score:.4f}, decision {record.decision}, outcome {outcome}")
    tree.add(f"answered by {record.arm} of {record.endpoint}, generation {record.generation}")
    if record.fallback_cause:
        tree.add(f"no model has answered but the endpoint's fallback: {record.fallback_cause}")
    else:
        _add_features(tree, found)
    tree.add(f"sealed in segment {short(found.prediction.segment_digest) or 'not yet'}")
    if found.bundle is not None:
        _add_bundle(tree, found)
    if found.views:
        wrong = list(differences(found.views, served(found.prediction), record.given_columns))
        given = f"[red]another {', '.join(one[0] for one in wrong)}[/red]" if wrong else "the values that were served"
        raw = tree.add(f"raw rows behind the looked-up features; computed anew they give {given}")
        for view in found.views:
            branch = raw.add(described(view))
            for row in view.rows[: -_SHOWN_ROWS - 1 : -1]:
                shown = ", ".join(f"{name} {value}" for name, value in row.values.items())
                branch.add(f"row {row.row} of batch {row.batch_id}: {shown}")
    if found.spans:
        spans = tree.add(f"trace {record.trace_id}")
        for span in found.spans:
            stages = ", ".join(f"{name} {micros:,}" for name, micros in span["stages"].items())
            spans.add(f"{span['service']} {span['name']} {span['micros']:,} µs" + f" ({stages})" * bool(stages))
    return tree


def _add_features(tree: Tree, found: Trace) -> None:
    record = found.prediction.prediction
    values = tree.add(f"features as of log position {record.feature_position:,}")
    numbers = zip(found.prediction.numeric_columns, record.numeric_values, strict=True)
    texts = zip(found.prediction.categorical_columns, record.categorical_values, strict=True)
    values.add(", ".join([f"{name} {value:.4g}" for name, value in numbers] + [f"{n} {t or '-'}" for n, t in texts]))
    if record.HasField("flags"):
        values.add(f"unlike the rows that the bundle was fitted on: {flags_text(record.flags)}")


def _add_bundle(tree: Tree, found: Trace) -> None:
    bundle = tree.add(f"bundle {short(found.bundle.digest)} ({word(BundleState, found.bundle.state)})")
    for gate in found.bundle.gates:
        bundle.add(f"gate {gate.gate}: {gate.finding}")
    if found.run is not None:
        run = bundle.add(f"run {found.run.run_id}")
        # Those of groups have an attribute in braces; the card has them as tables.
        whole = [metric for metric in found.run.metrics if "{" not in metric.name]
        run.add(", ".join(f"{m.name} {m.value:.4f} [{m.lower:.4f}, {m.upper:.4f}]" for m in whole))
        training = run.add(f"training set {short(found.training_set.digest)}, {found.training_set.rows:,} rows")
        for snapshot in found.snapshots:
            text = (
                f"{snapshot.dataset} {short(snapshot.digest)}, {snapshot.rows:,} rows in {snapshot.batches:,} batches"
            )
            training.add(f"snapshot of {text}{_again(snapshot.profile_json)}")


def described(view: View, shown: int = _SHOWN_ROWS) -> str:
    """Return in a line of which entity a view speaks, and from how many rows; of these `shown` follow, 0 is all."""
    key = ", ".join(f"{name} {text or 'null'}" for name, text in view.key.items())
    count = len(view.rows)
    last = f", the last {shown:,}:" if 0 < shown < count else ""
    return f"{view.view} of {key}: {count:,} row{'' if count == 1 else 's'} of {view.dataset}{last}"


def word(enum: Any, value: int) -> str:
    """Return a value of an enum in lower case, without the name of the enum."""
    name = enum.Name(value)
    return str(name).removeprefix(enum.Name(0).removesuffix("UNSPECIFIED")).lower()
