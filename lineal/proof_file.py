"""What proof files are written in: JSON with bytes in base64, and records of the log with their paths."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from lineal import merkle
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.errors import LinealError
from lineal.merkle import ProofWrong
from lineal.notes import Checkpoint


class ProofInvalid(LinealError):
    """A proof does not hold; `layer` is where it breaks."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(f"{layer}: {why}")
        self.layer = layer


def logged(given: Mapping[str, Any], checkpoint: Checkpoint, layer: str = "log") -> EventRecord:
    """Return an event that is proven to be in the log of a checkpoint. Raises ProofInvalid."""
    data = bytes_of(member(given, "record", str, layer), layer)
    try:
        event = EventRecord.FromString(data)
        path = path_of(given, layer)
        merkle.check_inclusion(merkle.leaf_hash(data), event.position - 1, checkpoint.size, path, checkpoint.root)
    except (DecodeError, ProofWrong) as error:
        raise ProofInvalid(layer, str(error)) from error
    return event


def member(given: Any, name: str, kind: type, layer: str) -> Any:
    """Return a member of a JSON object; raises ProofInvalid when it is missing or of another type."""
    if not isinstance(given, Mapping) or type(given.get(name)) is not kind:
        raise ProofInvalid(layer, f"{name!r} is missing, or of the wrong type")
    return given[name]


def path_of(given: Mapping[str, Any], layer: str) -> list[bytes]:
    """Return the hashes of a path. Raises ProofInvalid."""
    return [bytes_of(one, layer) for one in member(given, "path", list, layer)]


def text_of(data: bytes) -> str:
    """Return bytes as a proof file has them."""
    return base64.b64encode(data).decode()


def bytes_of(text: Any, layer: str) -> bytes:
    """Return the bytes that a text of a proof file stands for. Raises ProofInvalid."""
    try:
        data = base64.b64decode(str(text), validate=True)
    except binascii.Error:
        data = b""
    # Base64 has spare bits; only one way of writing each value is taken.
    if not isinstance(text, str) or text_of(data) != text:
        raise ProofInvalid(layer, "holds what is not base64")
    return data
