"""What other services have declared, read from their streams in the log."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from chassis.artifacts import ArtifactStore
from chassis.errors import ArtifactCorrupt, NotFound, RuleViolated
from chassis.events import EventLog
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.features.v1.feature_set_pb2 import Label
from lineal.api.registry.v1.endpoint_pb2 import Arm, Endpoint
from lineal.api.registry.v1.events_pb2 import ArmsChanged, EndpointRegistered, ModelRegistered
from tabular.bundle import Bundle, ManifestInvalid

_logger = logging.getLogger(__name__)


class EndpointUnknown(NotFound):
    """No endpoint of that name was declared."""


class NotABundle(RuleViolated):
    """An artifact is not the manifest of a bundle."""


@dataclass(frozen=True)
class EndpointFacts:
    """An endpoint's declaration, its arms by generation, and its model's label; None where the model has none."""

    endpoint: Endpoint
    arms: dict[int, tuple[Arm, ...]]
    label: Label | None


class Facts:
    """Reads declarations; streams of declarations are short."""

    def __init__(self, log: EventLog, artifacts: ArtifactStore) -> None:
        self._log = log
        self._artifacts = artifacts

    async def endpoint(self, name: str) -> EndpointFacts:
        """Return what is known of an endpoint. Raises EndpointUnknown."""
        endpoint = None
        arms: dict[int, tuple[Arm, ...]] = {}
        for event in await self._log.read_stream(f"endpoint/{name}"):
            match event.message:
                case EndpointRegistered() as registered:
                    endpoint = registered.endpoint
                case ArmsChanged() as changed:
                    arms[changed.generation] = tuple(changed.arms)
        if endpoint is None:
            raise EndpointUnknown(f"endpoint {name!r} was never declared; `lineal apply` declares it")
        return EndpointFacts(endpoint, arms, await self._label(endpoint.model))

    async def answerable(self, model: str) -> set[str]:
        """Return who ever declared or owned a model, as actors are named."""
        found = set()
        for event in await self._log.read_stream(f"model/{model}"):
            if isinstance(event.message, ModelRegistered):
                owner = event.message.model.owner
                found |= {event.actor, owner, f"person:{owner}"}
        return found

    def bundle(self, digest: str) -> Bundle:
        """Return a manifest. Raises NotABundle, ArtifactNotFound."""
        try:
            return Bundle.from_bytes(self._artifacts.read(digest))
        except ManifestInvalid as error:
            raise NotABundle(f"artifact {digest[:12]} is {error}") from error

    def bundles_there(self, digests: Iterable[str]) -> dict[str, Bundle]:
        """Return manifests by digest, without those that cannot be read: what only describes records stops nothing."""
        found = {}
        for digest in sorted(digests):
            try:
                found[digest] = self.bundle(digest)
            except (NotABundle, NotFound, ArtifactCorrupt) as error:
                _logger.warning("what was looked up for bundle %s is not recorded: %s", digest[:12], error)
        return found

    async def _label(self, model: str) -> Label | None:
        feature_set = ""
        for event in await self._log.read_stream(f"model/{model}"):
            if isinstance(event.message, ModelRegistered):
                feature_set = event.message.model.feature_set
        label = None
        if feature_set:
            for event in await self._log.read_stream(f"feature-set/{feature_set}"):
                if isinstance(event.message, FeatureSetRegistered):
                    label = event.message.feature_set.label
        return label
