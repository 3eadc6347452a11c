"""Policies of an endpoint: checks."""

import math

from chassis.errors import FieldViolation
from lineal.api.registry.v1.endpoint_pb2 import Endpoint


def check_release(endpoint: Endpoint) -> list[FieldViolation]:
    """Return what is wrong with the release policy."""
    policy = endpoint.release
    found = []
    shares = list(policy.canary_shares)
    if any(not 0 < share < 1 for share in shares) or shares != sorted(set(shares)):
        found.append(FieldViolation("endpoint.release.canary_shares", "give shares between 0 and 1 in ascending order"))
    if not 0 < policy.alpha < 0.5:
        found.append(FieldViolation("endpoint.release.alpha", "must lie between 0 and 0.5; 0.01 is usual"))
    if not 0 < policy.brier_tolerance < 1:
        found.append(FieldViolation("endpoint.release.brier_tolerance", "must lie between 0 and 1; 0.005 is usual"))
    if policy.max_units < policy.min_units:
        found.append(FieldViolation("endpoint.release.max_units", "must not be below min_units"))
    return found


def check_fallback(endpoint: Endpoint) -> list[FieldViolation]:
    """Return what is wrong with the fallback; an empty list where none is declared."""
    if not endpoint.HasField("fallback"):
        return []
    declared, found = endpoint.fallback, []
    if not declared.reason:
        found.append(FieldViolation("endpoint.fallback.reason", "say why this is what to answer when no model can"))
    if not math.isfinite(declared.score):
        found.append(FieldViolation("endpoint.fallback.score", "must be a finite number"))
    if declared.lookup_timeout.ToTimedelta().total_seconds() <= 0:
        found.append(FieldViolation("endpoint.fallback.lookup_timeout", "must be longer than 0 seconds; 1s is usual"))
    scores = list(declared.class_scores)
    if scores:
        if any(not 0 <= score <= 1 for score in scores) or not math.isclose(sum(scores), 1.0, abs_tol=1e-6):
            found.append(FieldViolation("endpoint.fallback.class_scores", "give probabilities that sum up to 1"))
        if not declared.HasField("decision") or declared.decision >= len(scores):
            found.append(
                FieldViolation("endpoint.fallback.decision", f"give the number of a class, 0 to {len(scores) - 1}")
            )
        elif declared.score != scores[declared.decision]:
            found.append(FieldViolation("endpoint.fallback.score", "give the probability of the class decided for"))
    elif declared.HasField("decision"):
        if declared.decision > 1:
            found.append(
                FieldViolation(
                    "endpoint.fallback.decision", "give 0 or 1, or class_scores where there are more classes"
                )
            )
        if not 0 <= declared.score <= 1:
            found.append(FieldViolation("endpoint.fallback.score", "with a decision give a probability, 0 to 1"))
    return found


def check_limits(endpoint: Endpoint) -> list[FieldViolation]:
    """Return what is wrong with the limits of callers; an empty list where none are declared."""
    if not endpoint.HasField("limits"):
        return []
    limits = endpoint.limits
    if not limits.rows_per_second and not limits.rows_per_day:
        return [FieldViolation("endpoint.limits", "give rows_per_second, rows_per_day or both; or leave it out")]
    if limits.burst_rows and not limits.rows_per_second:
        return [FieldViolation("endpoint.limits.burst_rows", "goes with rows_per_second; give that, too")]
    return []


def check_monitoring(endpoint: Endpoint) -> list[FieldViolation]:
    """Return what is wrong with the monitoring policy."""
    policy = endpoint.monitoring
    found = []
    if policy.period.ToTimedelta().total_seconds() <= 0:
        found.append(FieldViolation("endpoint.monitoring.period", "must be longer than 0 seconds"))
    if policy.allowed_lateness.ToTimedelta().total_seconds() < 0:
        found.append(FieldViolation("endpoint.monitoring.allowed_lateness", "must not be negative"))
    if not 0 < policy.false_discovery_rate < 1:
        found.append(FieldViolation("endpoint.monitoring.false_discovery_rate", "must lie between 0 and 1"))
    if policy.min_effect < 0:
        found.append(FieldViolation("endpoint.monitoring.min_effect", "must not be negative"))
    return found
