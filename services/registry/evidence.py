"""Reads what a bundle and the evidence about it are made of from the artifact store. Blocking."""

import json
from typing import Any

from chassis.artifacts import ArtifactStore
from chassis.errors import LinealError, RuleViolated
from lineal.api.trainer.v1.run_pb2 import Evaluation


class ManifestInvalid(RuleViolated):
    """A bundle's manifest or one of its files is missing or damaged."""


class EvaluationInvalid(RuleViolated):
    """The evidence is not an evaluation."""


def manifest(artifacts: ArtifactStore, digest: str) -> dict[str, Any]:
    """Return the manifest of a bundle after reading every file that it names. Raises ManifestInvalid."""
    try:
        reading = "manifest"
        found = json.loads(artifacts.read(digest))
        for name, file in found["files"].items():
            reading = name
            artifacts.read(file)
    except LinealError as error:
        raise ManifestInvalid(f"bundle {digest[:12]} is not intact: {reading}: {error.message}") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise ManifestInvalid(f"artifact {digest[:12]} is not the manifest of a bundle") from error
    return dict(found)


def evaluation(artifacts: ArtifactStore, digest: str) -> Evaluation:
    """Return an evaluation. Raises EvaluationInvalid."""
    try:
        return Evaluation.FromString(artifacts.read(digest))
    except ValueError as error:
        raise EvaluationInvalid(f"artifact {digest[:12]} is not an evaluation") from error
