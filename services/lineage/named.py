"""The artifacts that a log names, in its events and in the manifests that those name. Blocking."""

import re
from collections.abc import Iterator

from google.protobuf.message import Message

from chassis.artifacts import ArtifactStore
from chassis.errors import ArtifactCorrupt, NotFound
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.api.monitor.v1.events_pb2 import SegmentSealed
from lineal.records import message_of

# A digest as protobuf has it, after its length of 64, or as JSON has it.
_DIGEST = re.compile(rb'[@"]([0-9a-f]{64})')
# Of what was sent, which is not kept as it was sent.
_NOT_KEPT = {"content_digest"}
# What is longer is data, not a manifest.
_MANIFEST_BYTES = 4 * 1024 * 1024


class Named:
    """Digests of a log's artifacts: 32 bytes of each are held, and by which event."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._digests: dict[bytes, int] = {}
        self._unread: list[bytes] = []
        self._certain: set[bytes] = set()
        self._segments: set[bytes] = set()

    @property
    def count(self) -> int:
        """Return how many digests are known by now."""
        return len(self._digests)

    def __contains__(self, digest: str) -> bool:
        """Tell whether a digest is known by now."""
        return bytes.fromhex(digest) in self._digests

    def add(self, position: int, record: bytes) -> None:
        """Look for digests in a record."""
        digests = [bytes.fromhex(found.decode()) for found in _DIGEST.findall(record)]
        if not digests:
            return
        for digest in digests:
            self._note(digest, position)
        message = message_of(EventRecord.FromString(record))
        if message is not None:
            certain = set(_artifact_fields(message))
            self._certain |= certain
            if isinstance(message, SegmentSealed):
                self._segments |= certain & {bytes.fromhex(message.segment_digest)}

    def verified(self) -> Iterator[tuple[str, str]]:
        """Read every artifact that was not read yet; yield its layer and what is wrong, nothing when all is right."""
        while self._unread:
            digest = self._unread.pop()
            layer = "segment" if digest in self._segments else "artifact"
            where = f"named by the event at position {self._digests[digest]}"
            try:
                size = self._artifacts.verify(digest.hex())
            except ArtifactCorrupt as error:
                yield layer, f"{error} ({where})"
                continue
            except NotFound as error:
                yield layer, f"{error} ({where})" if digest in self._certain else ""
                continue
            if size <= _MANIFEST_BYTES:
                for found in _DIGEST.findall(self._artifacts.read(digest.hex())):
                    self._note(bytes.fromhex(found.decode()), self._digests[digest])
            yield layer, ""

    def _note(self, digest: bytes, position: int) -> None:
        if digest not in self._digests:
            self._digests[digest] = position
            self._unread.append(digest)


def _artifact_fields(message: Message) -> Iterator[bytes]:
    for descriptor, value in message.ListFields():
        if not descriptor.name.endswith(("_digest", "_digests")) or descriptor.name in _NOT_KEPT:
            continue
        for digest in [value] if isinstance(value, str) else value:
            if isinstance(digest, str) and len(digest) == 64:
                yield bytes.fromhex(digest)
