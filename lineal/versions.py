"""The version of a feature view or feature set: the hash of its content. Services and clients compute it alike."""

import hashlib
import json
from collections.abc import Mapping

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from lineal.api.features.v1.feature_set_pb2 import FeatureSet


def version(declaration: Message, *others: str) -> str:
    """Return the SHA-256, in hex, of a declaration and of the versions it stands on."""
    content = [MessageToDict(declaration, preserving_proto_field_name=True), *others]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def set_version(declared: FeatureSet, view_versions: Mapping[str, str]) -> str:
    """Return the version of a feature set over the versions of exactly the views that it uses."""
    return version(declared, *(f"{name}={view_versions[name]}" for name in sorted(view_versions)))
