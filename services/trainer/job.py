"""`python -m services.trainer.job`: the heavy work of the trainer, in a process of its own."""

import io
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.json_format import MessageToDict, ParseDict

from chassis.artifacts import ArtifactStore, artifact_store, canonical_json
from chassis.jobs import Report, work
from lineal.api.features.v1.transform_pb2 import Transform
from lineal.api.trainer.v1.run_pb2 import BundleMetrics, Evaluation, Metric, Parameters
from services.trainer import evaluation, fairness, guarding, split, vault
from services.trainer.card import card
from services.trainer.fitting import fit
from services.trainer.rows import TrainingRows, read
from tabular.bundle import CARD_FILE, GUARD_FILE, MODEL_FILE, REFERENCE_FILE, Bundle, MetricValue, ModelColumn
from tabular.scorer import CATBOOST_VERSION, Scorer, canonical_digest, describe, load
from tabular.vectors import Vectors

_REFERENCE_ROWS = 10_000


def train(spec: Mapping[str, Any], artifacts: ArtifactStore, report: Report) -> dict[str, Any]:
    """Make a bundle of a training set."""
    started = time.process_time()
    parameters = ParseDict(spec["parameters"], Parameters())
    wanted = [column for column in spec["columns"] if column["name"] not in parameters.exclude_columns]
    columns = _ordered(ModelColumn(column["name"], column["type"], column["source"]) for column in wanted)
    inputs = dict.fromkeys(ModelColumn(**each) for column in wanted for each in column["inputs"])
    report("reading", 0, 1)
    rows = read(artifacts, spec["training_set_digest"], columns)
    parts = _split(rows, parameters)
    learnt, validated = rows.take(parts.train), rows.take(parts.validation)
    fitted = fit(spec["problem"], len(spec["classes"]), columns, learnt, validated, parameters, report)
    bundle = Bundle(
        model=spec["model"],
        problem=spec["problem"],
        columns=columns,
        files={},
        feature_set=spec["feature_set"],
        feature_set_version=spec["feature_set_version"],
        entity_columns=tuple(spec["entity_columns"]),
        label_key=tuple(spec["label_key"]),
        calibrator=fitted.calibrator,
        threshold=fitted.threshold,
        run_id=spec["run_id"],
        training_set_digest=spec["training_set_digest"],
        test_start_micros=parts.test_start_micros,
        test_share=parameters.test_share if rows.cutoff_micros is None else None,
        model_digest=fitted.model_digest,
        catboost_version=CATBOOST_VERSION,
        transforms=tuple(ParseDict(each, Transform()) for each in spec["transforms"]) if inputs else (),
        inputs=tuple(inputs),
        classes=tuple(spec["classes"]),
    )
    scorer = Scorer(bundle, fitted.model_file)
    report("evaluating", 0, 1)
    test = rows.take(parts.test)
    score = scorer.score(test.vectors).calibrated
    measured, _ = evaluation.metrics(bundle.problem, test.label, score, evaluation.Resampling(len(test.label)))
    groups = _groups(spec, bundle, rows, parts.test, score)
    measured += [metric for attribute in groups for metric in attribute.metrics()]
    bundle = replace(bundle, metrics=tuple(measured))
    text = card(
        bundle,
        description=spec.get("description", ""),
        rows={"training": len(parts.train), "validation": len(parts.validation), "untouched": len(parts.test)},
        parameters=MessageToDict(parameters, preserving_proto_field_name=True),
        trees=fitted.trees,
        importance=fitted.importance,
        groups=groups,
    )
    reference = rows.take(np.sort(np.concatenate([parts.train, parts.validation]))).vectors
    files = {
        REFERENCE_FILE: _reference(bundle, scorer, reference, parameters.seed),
        GUARD_FILE: canonical_json(guarding.fit(bundle, learnt.vectors, validated.vectors).to_json()),
    }
    return {
        "bundle_digest": _store(artifacts, bundle, fitted.model_file, text, files),
        "metrics": [asdict(metric) for metric in measured],
        "trees": fitted.trees,
        "cpu_seconds": time.process_time() - started,
        "trials_digest": artifacts.put(canonical_json(fitted.trials)) if fitted.trials else "",
    }


def evaluate(spec: Mapping[str, Any], artifacts: ArtifactStore, report: Report) -> dict[str, Any]:
    """Score bundles on the same rows; the evidence goes into the artifact store."""
    result = Evaluation(training_set_digest=spec["training_set_digest"])
    start, end = spec["start_micros"], spec["end_micros"]
    resampling = None
    candidate: evaluation.Draws | None = None
    bundles = [Bundle.from_bytes(artifacts.read(digest)) for digest in spec["bundle_digests"]]
    # Of a static table only what none of the bundles has learnt from.
    shares = [bundle.test_share for bundle in bundles if bundle.test_share is not None]
    _check_alike(bundles)
    for number, (digest, bundle) in enumerate(zip(spec["bundle_digests"], bundles, strict=True)):
        report("scoring", number, len(bundles))
        rows = read(artifacts, spec["training_set_digest"], bundle.columns)
        chosen = np.ones(len(rows), dtype=bool)
        if rows.cutoff_micros is not None:
            chosen &= rows.cutoff_micros >= start if start is not None else True
            chosen &= rows.cutoff_micros < end if end is not None else True
        elif shares:
            chosen = split.untouched(rows.keys, min(shares))
        numbers = np.flatnonzero(chosen)
        if not len(numbers):
            raise split.TooFewRows("no row of the training set lies in the time range of the evaluation")
        test = rows.take(numbers)
        resampling = resampling or evaluation.Resampling(len(numbers))
        score = Scorer(bundle, artifacts.read(bundle.files[MODEL_FILE])).score(test.vectors).calibrated
        measured, draws = evaluation.metrics(bundle.problem, test.label, score, resampling)
        result.rows = len(numbers)
        result.bundles.append(BundleMetrics(bundle_digest=digest, metrics=_messages(measured)))
        if candidate is None:
            candidate = draws
        else:
            differences = evaluation.difference(candidate, draws)
            result.differences.append(BundleMetrics(bundle_digest=digest, metrics=_messages(differences)))
    if start is not None:
        result.start_time.FromMicroseconds(start)
    if end is not None:
        result.end_time.FromMicroseconds(end)
    return {"evaluation_digest": artifacts.put(result.SerializeToString(deterministic=True))}


def import_model(spec: Mapping[str, Any], artifacts: ArtifactStore, report: Report) -> dict[str, Any]:
    """Make a bundle of a model file that was trained elsewhere."""
    report("examining", 0, 1)
    model_file = Path(spec["path"]).read_bytes()
    model = load(model_file)
    problem, columns, classes = describe(model)
    bundle = Bundle(
        model=spec["model"],
        problem=problem,
        columns=columns,
        files={},
        threshold=spec["threshold"],
        run_id=spec["run_id"],
        model_digest=canonical_digest(model),
        catboost_version=CATBOOST_VERSION,
        classes=classes,
    )
    # Scoring a row of nulls shows that the file is whole.
    Scorer(bundle, model_file).score(
        Vectors(np.full((1, len(bundle.numeric)), np.nan), np.full((1, len(bundle.categorical)), "", dtype=object))
    )
    text = card(bundle, description=spec["description"], rows={}, parameters={}, trees=model.tree_count_, importance=[])
    return {"bundle_digest": _store(artifacts, bundle, model_file, text, {})}


def _check_alike(bundles: list[Bundle]) -> None:
    first, *others = bundles
    for bundle in others:
        if (bundle.problem, bundle.classes) != (first.problem, first.classes):
            raise ValueError("the bundles answer different problems or classes, so no rows can compare them")


def _store(artifacts: ArtifactStore, bundle: Bundle, model_file: bytes, text: str, others: Mapping[str, bytes]) -> str:
    contents = {MODEL_FILE: model_file, CARD_FILE: text.encode(), **others}
    files = {name: artifacts.put(content) for name, content in contents.items()}
    return artifacts.put(canonical_json(replace(bundle, files=files).to_json()))


def _reference(bundle: Bundle, scorer: Scorer, vectors: Vectors, seed: int) -> bytes:
    """Return a sample of what the model learnt from, with its scores: what drift is measured against."""
    chosen = np.random.default_rng(seed).permutation(len(vectors))[:_REFERENCE_ROWS]
    sample = vectors.take(np.sort(chosen))
    arrays: dict[str, Any] = {name: sample.numeric[:, index] for index, name in enumerate(bundle.numeric)}
    for index, name in enumerate(bundle.categorical):
        arrays[name] = pa.array(sample.categorical[:, index].tolist(), type=pa.string())
    arrays["score"] = scorer.score(sample).answered
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer, compression="zstd")
    return buffer.getvalue()


def _groups(
    spec: Mapping[str, Any], bundle: Bundle, rows: TrainingRows, test: split.Rows, score: evaluation.Array
) -> list[fairness.Groups]:
    """Compare the groups of each protected attribute on the untouched rows; nothing where there is none."""
    if spec["vault"] is None:
        return []
    values = vault.read(spec["vault"], spec["run_id"], rows.keys, test)
    return [
        fairness.compare(bundle.problem, rows.label[test], score, bundle.threshold, name, values[name].to_pylist())
        for name in values.column_names
    ]


def _split(rows: TrainingRows, parameters: Parameters) -> split.Split:
    if rows.cutoff_micros is None:
        return split.by_key(rows.keys, parameters.validation_share, parameters.test_share)
    gap = parameters.gap.ToMicroseconds()
    return split.by_time(rows.cutoff_micros, parameters.validation_share, parameters.test_share, gap)


def _ordered(columns: Any) -> tuple[ModelColumn, ...]:
    # Numbers first, then categories: CatBoost's fast input wants them so. The order within each is the feature set's.
    return tuple(sorted(columns, key=lambda column: column.type == "categorical"))


def _messages(measured: list[MetricValue]) -> list[Metric]:
    return [Metric(name=m.name, value=m.value, lower=m.lower, upper=m.upper) for m in measured]


_KINDS = {"train": train, "evaluate": evaluate, "import": import_model}


def _do(spec: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    return _KINDS[spec["kind"]](spec, artifact_store(spec["artifacts"], Path(spec["artifact_cache"])), report)


if __name__ == "__main__":
    sys.exit(work(_do))
