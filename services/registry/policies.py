"""Policies of an endpoint: checks."""

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
