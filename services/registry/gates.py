"""Gates: what a bundle must show before it may be released, decided from an evaluation alone."""

from collections.abc import Iterator, Mapping

from lineal.api.registry.v1.model_pb2 import GatePolicy, GateResult
from lineal.api.trainer.v1.run_pb2 import BundleMetrics, Evaluation, Metric


def judge(policy: GatePolicy, candidate: str, champion: str, evaluation: Evaluation | None) -> list[GateResult]:
    """Return the finding of every gate for a candidate.

    `champion` is empty for a first release. `evaluation` is None for a model that was trained elsewhere and comes
    without rows to score; a person has to approve it whatever the policy says. An interval decides by its bad end, so
    that too few rows never pass a gate by luck.
    """
    if evaluation is None:
        return [
            GateResult(gate="evidence", passed=True, finding="trained elsewhere: no rows to score, a person decides")
        ]
    return list(_findings(policy, candidate, champion, evaluation))


def _findings(policy: GatePolicy, candidate: str, champion: str, evaluation: Evaluation) -> Iterator[GateResult]:
    names = [entry.bundle_digest for entry in evaluation.bundles]
    if not names or names[0] != candidate:
        yield GateResult(gate="evidence", finding="the evaluation is not of this bundle")
        return
    yield GateResult(
        gate="rows",
        passed=evaluation.rows >= policy.min_rows,
        finding=f"{evaluation.rows:,} untouched rows, at least {policy.min_rows:,} asked",
    )
    own = _by_name(evaluation.bundles[0])
    if policy.min_auc and "auc" in own:
        yield GateResult(
            gate="auc",
            passed=own["auc"].lower >= policy.min_auc,
            finding=f"AUC {_interval(own['auc'])}, at least {policy.min_auc:g} asked",
        )
    if not champion:
        yield GateResult(gate="champion", passed=True, finding="first release: there is no champion to compare with")
        return
    difference = next((entry for entry in evaluation.differences if entry.bundle_digest == champion), None)
    if difference is None:
        yield GateResult(gate="champion", finding="the evaluation does not compare with the champion")
        return
    yield from _against_champion(policy, _by_name(difference), _champion_metrics(evaluation, champion))


def _against_champion(
    policy: GatePolicy, difference: Mapping[str, Metric], champion: Mapping[str, Metric]
) -> Iterator[GateResult]:
    if "auc" in difference:
        auc = difference["auc"]
        yield GateResult(
            gate="auc against champion",
            passed=auc.lower >= -policy.max_auc_loss,
            finding=f"AUC differs by {_interval(auc)}, may lose {policy.max_auc_loss:g}",
        )
    if "brier" in difference:
        brier = difference["brier"]
        yield GateResult(
            gate="brier against champion",
            passed=brier.upper <= policy.max_brier_increase,
            finding=f"Brier score differs by {_interval(brier)}, may grow by {policy.max_brier_increase:g}",
        )
    if "rmse" in difference:
        rmse = difference["rmse"]
        allowed = policy.max_rmse_increase * champion["rmse"].value
        yield GateResult(
            gate="rmse against champion",
            passed=rmse.upper <= allowed,
            finding=f"RMSE differs by {_interval(rmse)}, may grow by {allowed:.4g}",
        )
    if not {"auc", "brier", "rmse"} & set(difference):
        yield GateResult(gate="champion", finding="the evaluation has no metric in common with the champion")


def _champion_metrics(evaluation: Evaluation, champion: str) -> dict[str, Metric]:
    return next((_by_name(entry) for entry in evaluation.bundles if entry.bundle_digest == champion), {})


def _by_name(entry: BundleMetrics) -> dict[str, Metric]:
    return {metric.name: metric for metric in entry.metrics}


def _interval(metric: Metric) -> str:
    return f"{metric.value:.4f} [{metric.lower:.4f}, {metric.upper:.4f}]"
