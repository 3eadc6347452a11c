"""What the policies of models and endpoints are where a declaration leaves them unset."""

from google.protobuf.duration_pb2 import Duration

from lineal.api.registry.v1.endpoint_pb2 import Endpoint, MonitoringPolicy, ReleasePolicy
from lineal.api.registry.v1.model_pb2 import GatePolicy, Model

_GATES = GatePolicy(min_rows=500, max_auc_loss=0.01, max_brier_increase=0.005, max_rmse_increase=0.02)
# As many as Regulation B's official interpretation has of an adverse action: 12 CFR 1002, comment 9(b)(2)-1.
_REASONS = 4
_RELEASE = ReleasePolicy(
    shadow_units=200,
    canary_shares=[0.05, 0.25, 0.5],
    min_units=300,
    max_units=20_000,
    alpha=0.01,
    brier_tolerance=0.005,
)
_MONITORING = MonitoringPolicy(
    period=Duration(seconds=7 * 86_400),
    allowed_lateness=Duration(seconds=3600),
    min_rows=500,
    false_discovery_rate=0.01,
    min_effect=0.2,
)
_LOOKUP_TIMEOUT = Duration(seconds=1)


def model_with_defaults(model: Model) -> Model:
    """Return the model with unset gate limits, and of its explanations the number of reasons, filled in."""
    filled = Model()
    filled.CopyFrom(model)
    gates = filled.gates
    for name in ("min_rows", "max_auc_loss", "max_brier_increase", "max_rmse_increase"):
        if not getattr(gates, name):
            setattr(gates, name, getattr(_GATES, name))
    if filled.HasField("explanations") and not filled.explanations.most_reasons:
        filled.explanations.most_reasons = _REASONS
    return filled


def endpoint_with_defaults(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with the defaults of what its policies, its fallback and its limits leave unset."""
    filled = Endpoint()
    filled.CopyFrom(endpoint)
    if filled.HasField("fallback") and not filled.fallback.HasField("lookup_timeout"):
        filled.fallback.lookup_timeout.CopyFrom(_LOOKUP_TIMEOUT)
    if filled.HasField("limits") and not filled.limits.burst_rows:
        filled.limits.burst_rows = filled.limits.rows_per_second
    for policy, defaults in ((filled.release, _RELEASE), (filled.monitoring, _MONITORING)):
        given = {field.name for field, _ in policy.ListFields()}
        for field, value in defaults.ListFields():
            if field.name in given:
                continue
            if field.is_repeated:
                getattr(policy, field.name).extend(value)
            elif field.message_type is not None:
                getattr(policy, field.name).CopyFrom(value)
            else:
                setattr(policy, field.name, value)
    return filled
