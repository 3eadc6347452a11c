"""Serving with what it needs around it: the log, a registry, a trainer that imports, a monitor that takes records."""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.servers import Server, on, serving
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole, Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from lineal.client import connect

_AROUND = ("lineage", "trainer", "registry", "features", "monitor")
_APPLIED_SECONDS = 60.0


@contextmanager
def suite(folder: Path, models: Path, cores: list[int], around: list[int], **environment: str) -> Iterator[Server]:
    """Run serving with a champion for each model in a folder, on endpoints named like the models' folders.

    Serving has `cores`, the services that it needs have `around`; `environment` is serving's.
    """
    with needed(folder, around) as settings, ExitStack() as stack:
        with on(cores):
            server = stack.enter_context(serving("services.serving", folder / "serving", **settings, **environment))
        for model in sorted(models.glob("*/model.cbm")):
            release(Path(settings["LINEAL_PROFILE"]), model.parent.name, model)
        yield server


@contextmanager
def needed(folder: Path, cores: list[int], *more: str) -> Iterator[dict[str, str]]:
    """Run the services that serving needs, and more; yield the settings of those that need them."""
    profile = folder / "profile.yaml"
    folder.mkdir(parents=True)
    addresses: dict[str, str] = {}
    settings = {"LINEAL_PROFILE": str(profile), "LINEAL_ARTIFACTS_URL": str(folder / "artifacts")}
    with ExitStack() as stack:
        for name in (*_AROUND, *more):
            profile.write_text(json.dumps(addresses), encoding="utf-8")
            with on(cores):
                addresses[name] = stack.enter_context(serving(f"services.{name}", folder / name, **settings)).address
        profile.write_text(json.dumps(addresses), encoding="utf-8")
        yield settings


def release(profile: Path, name: str, model: Path) -> None:
    """Make a model file the champion of an endpoint of its name."""
    with connect(profile) as client:
        client.services.registry.call(
            "RegisterModel", registry_api.RegisterModelRequest(request_id=_id(), model=Model(name=name))
        )
        digest = client.import_model(name, model)
        client.approve(digest, "measured")
    promote(profile, name, name, digest)


def promote(profile: Path, name: str, model: str, digest: str) -> None:
    """Make an approved bundle the champion of an endpoint; return once the replicas that there are have it."""
    with connect(profile) as client, grpc.insecure_channel(client.profile.address("registry")) as channel:
        registry: Any = RegistryServiceStub(channel)
        registry.RegisterEndpoint(
            registry_api.RegisterEndpointRequest(request_id=_id(), endpoint=Endpoint(name=name, model=model))
        )
        champion = Arm(bundle_digest=digest, role=ArmRole.ARM_ROLE_CHAMPION)
        changed = registry.ChangeArms(
            registry_api.ChangeArmsRequest(request_id=_id(), endpoint=name, arms=[champion], reason="measured")
        )
        wanted = registry_api.WaitForGenerationRequest(endpoint=name, generation=changed.generation)
        registry.WaitForGeneration(wanted, timeout=_APPLIED_SECONDS)


def _id() -> str:
    return str(uuid.uuid4())
