"""Examine a period: sealed predictions against the champion's reference, and the performance so far."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from chassis.artifacts import ArtifactStore
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.monitor.v1.report_pb2 import AlarmKind, DriftFinding, PeriodReport
from lineal.api.registry.v1.endpoint_pb2 import MonitoringPolicy
from services.monitor.drift import Detector, Sample, examine
from services.monitor.facts import EndpointFacts
from services.monitor.performance import by_arm, by_models
from tabular.bundle import REFERENCE_FILE, Bundle

_NAMED = 5


def busiest(frame: pd.DataFrame) -> str:
    """Return the digest of the champion that answered most of some predictions, or of another bundle; empty without."""
    answered = by_models(frame)
    champions = answered.loc[answered["arm"] == "champion", "bundle_digest"]
    digests = (champions if len(champions) else answered["bundle_digest"]).mode()
    return str(digests.iloc[0]) if len(digests) else ""


def report_on(
    frame: pd.DataFrame,
    facts: EndpointFacts,
    bundle_digest: str,
    bundle: Bundle | None,
    artifacts: ArtifactStore,
    detector: Detector,
) -> PeriodReport:
    """Return the findings and the performance of a period; `frame` has its predictions with records and outcomes.

    Only what the champion answered is compared: other bundles may take other columns. Without a bundle nothing is.
    """
    policy = facts.endpoint.monitoring
    report = PeriodReport(
        predictions=len(frame),
        fallbacks=len(frame) - len(by_models(frame)),
        bundle_digest=bundle_digest,
        detector=detector.name,
        performance=by_arm(frame, facts.label),
    )
    report.segment_digests.extend(sorted(set(frame["segment"]) - {""}))
    own = frame[frame["bundle_digest"] == bundle_digest]
    if bundle is None:
        return report
    if len(own) >= policy.min_rows and REFERENCE_FILE in bundle.files:
        report.reference_digest = bundle.files[REFERENCE_FILE]
        report.findings.extend(
            examine(
                detector,
                _reference(bundle, artifacts.read(report.reference_digest)),
                _current(bundle, own),
                ignored=policy.ignored_columns,
                false_discovery_rate=policy.false_discovery_rate,
                min_effect=policy.min_effect,
            )
        )
    return report


def alarms_in(
    report: PeriodReport, bundle: Bundle, policy: MonitoringPolicy
) -> list[tuple["AlarmKind.ValueType", str]]:
    """Return what in a report calls for action, in plain words."""
    found: list[tuple[AlarmKind.ValueType, str]] = []
    drifted = [finding for finding in report.findings if finding.drifted]
    if drifted:
        found.append((AlarmKind.ALARM_KIND_DRIFT, _describe(drifted)))
    promised = next((metric.value for metric in bundle.metrics if metric.name == "auc"), None)
    own = next((entry for entry in report.performance if entry.bundle_digest == report.bundle_digest), None)
    if promised is None or own is None or own.outcomes < policy.min_rows or not policy.max_auc_drop:
        return found
    if own.auc < promised - policy.max_auc_drop:
        found.append(
            (
                AlarmKind.ALARM_KIND_PERFORMANCE,
                f"AUC {own.auc:.4f} over {own.outcomes:,} outcomes, {promised:.4f} when it was evaluated",
            )
        )
    return found


def _describe(drifted: Sequence[DriftFinding]) -> str:
    named = ", ".join(f"{finding.column} (PSI {finding.effect:.2f})" for finding in drifted[:_NAMED])
    more = f" and {len(drifted) - _NAMED} more" if len(drifted) > _NAMED else ""
    return f"{len(drifted)} columns drifted: {named}{more}"


def _reference(bundle: Bundle, data: bytes) -> Sample:
    table = pq.read_table(io.BytesIO(data))
    return Sample(
        {name: table[name].to_numpy() for name in bundle.numeric},
        {name: np.array(table[name].to_pylist(), dtype=object) for name in bundle.categorical},
        table["score"].to_numpy(),
    )


def _current(bundle: Bundle, frame: pd.DataFrame) -> Sample:
    records = [PredictionRecord.FromString(record) for record in frame["record"]]
    numeric = np.array([record.numeric_values for record in records], dtype=np.float64)
    categorical = np.array([list(record.categorical_values) for record in records], dtype=object)
    return Sample(
        {name: numeric[:, index] for index, name in enumerate(bundle.numeric)},
        {name: categorical[:, index] for index, name in enumerate(bundle.categorical)},
        frame["score"].to_numpy(dtype=float),
    )
