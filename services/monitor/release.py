"""Judge a candidate against the champion from units that both have scored: the same rows give the same verdict."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lineal.api.monitor.v1.report_pb2 import ArmCounts, ReleaseReport, ReleaseStage, Verdict
from lineal.api.registry.v1.endpoint_pb2 import ReleasePolicy
from services.monitor.eprocess import mean_above, mean_below, rate_above, split_differs

# A candidate is promoted when "it loses the tolerance or more" has become this unlikely.
_NON_INFERIOR = 20.0
_SPLIT_P = 0.001


@dataclass(frozen=True)
class Step:
    """Where a release stands: its generations, and the candidate's share (0 in the shadow)."""

    stage: "ReleaseStage.ValueType"
    from_generation: int
    generation: int
    share: float
    last: bool


def judge(
    rows: pd.DataFrame, step: Step, policy: ReleasePolicy, candidate: str, champion: str, *, classes: bool = False
) -> ReleaseReport:
    """Return the evidence with its verdict.

    `rows` has one row per prediction since the release began: `unit`, `generation`, `bundle_digest` (that answered),
    `candidate_score` and `champion_score` (NaN when it failed), `candidate_scored` and `champion_scored` (whether it
    has tried), `candidate_failed` and `champion_failed` (failed, or slower than the policy's objective), `outcome` (NaN
    until it comes) and `arrival`, a number that orders outcomes by their arrival. A unit counts once, with its first
    prediction: that keeps units independent. With `classes` a score is the probability of the class that its arm
    decided for, so losses cannot be paired: failures and the split are tested, of quality a person decides.
    """
    rows = rows[rows["unit"] != ""].drop_duplicates("unit", keep="first")
    scored = rows[rows["candidate_scored"] & rows["champion_scored"]]
    paired = scored.dropna(subset=["candidate_score", "champion_score", "outcome"]).sort_values(
        ["arrival", "prediction_id"], kind="stable"
    )
    paired = paired.iloc[:0] if classes else paired
    outcome = paired["outcome"].to_numpy(dtype=float)
    losses = [np.square(paired[name].to_numpy(dtype=float) - outcome) for name in ("candidate_score", "champion_score")]
    difference = losses[0] - losses[1]
    report = ReleaseReport(
        candidate_digest=candidate,
        champion_digest=champion,
        stage=step.stage,
        from_generation=step.from_generation,
        step_generation=step.generation,
        candidate=_counts(rows, scored, step, candidate, "candidate_failed"),
        champion=_counts(rows, scored, step, champion, "champion_failed"),
        paired_units=len(paired),
        mean_loss_difference=float(difference.mean()) if len(difference) else 0.0,
        harm_e_value=mean_above(difference, 0.0, least=-1.0),
        non_inferiority_e_value=mean_below(difference, policy.brier_tolerance, greatest=1.0),
        data_digest=hashlib.sha256(np.stack(losses).astype("<f8").tobytes()).hexdigest(),
    )
    report.failure_e_value = rate_above(report.candidate.failures, report.champion.failures, 0.5)
    report.split_p_value = min(1.0, 1 / split_differs(report.candidate.units, report.champion.units, step.share))
    step_pairs = int((paired["generation"] >= step.generation).sum())
    report.verdict, report.finding = _verdict(report, step, policy, step_pairs, classes)
    return report


def _counts(rows: pd.DataFrame, scored: pd.DataFrame, step: Step, bundle: str, failed: str) -> ArmCounts:
    answered = rows["bundle_digest"] == bundle
    return ArmCounts(
        units=int((answered & (rows["generation"] == step.generation)).sum()),
        release_units=int(answered.sum()),
        scored_units=len(scored),
        failures=int(scored[failed].sum()),
    )


def _verdict(
    report: ReleaseReport, step: Step, policy: ReleasePolicy, step_pairs: int, classes: bool
) -> tuple["Verdict.ValueType", str]:
    # Two tests share alpha evenly (Bonferroni), over the whole release.
    bar = 2 / policy.alpha
    pairs = f"{report.paired_units:,} units that both scored"
    difference = f"Brier loss differs by {report.mean_loss_difference:+.4f} over {pairs}"
    if report.harm_e_value >= bar:
        return Verdict.VERDICT_FAIL, f"harm: {difference}, e-value {report.harm_e_value:.3g} of {bar:g}"
    if report.failure_e_value >= bar:
        return Verdict.VERDICT_FAIL, (
            f"failures: {report.candidate.failures} of the candidate, {report.champion.failures} of the champion, "
            f"e-value {report.failure_e_value:.3g} of {bar:g}"
        )
    if step.stage == ReleaseStage.RELEASE_STAGE_SHADOW:
        scored = report.candidate.scored_units
        if scored >= policy.shadow_units:
            return Verdict.VERDICT_PASS, f"the shadow has scored {scored:,} units, {report.candidate.failures} failed"
        return Verdict.VERDICT_WAIT, f"the shadow has scored {scored:,} of {policy.shadow_units:,} units"
    if report.split_p_value < _SPLIT_P:
        return Verdict.VERDICT_INVALID, (
            f"{report.candidate.units} of {report.candidate.units + report.champion.units} units went to a share of "
            f"{step.share:g}: the split is broken (p {report.split_p_value:.2g})"
        )
    return _answered(report, policy) if classes else _progress(report, step, policy, step_pairs, difference)


def _answered(report: ReleaseReport, policy: ReleasePolicy) -> tuple["Verdict.ValueType", str]:
    units = report.candidate.units + report.champion.units
    if units < policy.min_units:
        return Verdict.VERDICT_WAIT, f"{units:,} of {policy.min_units:,} units of this step are answered"
    return Verdict.VERDICT_INCONCLUSIVE, (
        f"{units:,} units are answered without an excess of failures; no test here compares the quality of several "
        "classes, a person decides by the accuracy of both arms"
    )


def _progress(
    report: ReleaseReport, step: Step, policy: ReleasePolicy, step_pairs: int, difference: str
) -> tuple["Verdict.ValueType", str]:
    proven = report.non_inferiority_e_value >= _NON_INFERIOR
    if step_pairs >= policy.min_units and (proven or not step.last):
        return Verdict.VERDICT_PASS, f"{difference}; no harm (e-value {report.harm_e_value:.3g})" + (
            f", no worse than by {policy.brier_tolerance:g} (e-value {report.non_inferiority_e_value:.3g})"
            if proven
            else ""
        )
    if step_pairs >= policy.max_units:
        return Verdict.VERDICT_INCONCLUSIVE, f"{difference}; neither harm nor its absence is shown, a person decides"
    if step_pairs < policy.min_units:
        return Verdict.VERDICT_WAIT, f"{step_pairs:,} of {policy.min_units:,} units of this step have an outcome"
    return Verdict.VERDICT_WAIT, (
        f"{difference}; not yet shown to lose less than {policy.brier_tolerance:g} "
        f"(e-value {report.non_inferiority_e_value:.3g} of {_NON_INFERIOR:g})"
    )
