"""Retire what was declared: nothing new may use it then; declaring it again brings it back."""

from typing import Any

from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.calls import Services, new_request_id

# Which service owns a kind of definition, and what it is asked with.
_REQUESTS: dict[str, tuple[str, Any]] = {
    "Dataset": ("ingest", ingest_api.RetireDatasetRequest),
    "FeatureView": ("features", features_api.RetireFeatureViewRequest),
    "FeatureSet": ("features", features_api.RetireFeatureSetRequest),
    "Model": ("registry", registry_api.RetireModelRequest),
    "Endpoint": ("registry", registry_api.RetireEndpointRequest),
}


def retire(services: Services, kind: str, name: str, reason: str) -> int:
    """Retire a definition of a kind as project files name it; return the log position. Raises CallFailed."""
    service, request = _REQUESTS[kind]
    asked = request(request_id=new_request_id(), name=name, reason=reason)
    return int(getattr(services, service).call(f"Retire{kind}", asked).position)
