"""Proof files: what somebody needs to check a prediction or an event with the public key of a log and nothing else.

A proof is a chain. Each layer rests on the one above it:

    checkpoint   the log's size and root, signed with a key that is trusted, or that a trusted one vouches for
    log          an event's record is a leaf of that tree
    segment      the event says which Merkle root a segment of predictions has
    prediction   the prediction's record is a leaf of the segment
    manifest     documents whose SHA-256 stands in the one before: the record names its bundle, the bundle its training
                 set, the training set its snapshots
    definition   the feature set that the bundle names, its views and their datasets, as events of the same log
    batch        the event of each batch that brought rows, with their Merkle root; manifests that list the batch agree
    row          each row behind the features that were looked up is a leaf of its batch

A proof about an event has the first two.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from lineal import merkle, served
from lineal.api.lineage.v1 import lineage_service_pb2 as lineage_api
from lineal.api.lineage.v1 import proof_service_pb2 as proof_api
from lineal.api.lineage.v1.record_pb2 import EventRecord, StoredRecord
from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.api.monitor.v1.events_pb2 import SegmentSealed
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.calls import Services
from lineal.errors import call_failed
from lineal.merkle import ProofWrong
from lineal.notes import Checkpoint, NoteWrong, PublicKey, trusted_keys, verified
from lineal.proof_file import ProofInvalid, bytes_of, logged, member, path_of, text_of
from lineal.served import Served

__all__ = ["FORMAT", "ProofInvalid", "Proven", "audit", "check", "of_event", "of_prediction"]

FORMAT = "lineal-proof-v1"
# Another member may be one of these under a changed name, and a proof of less would pass for the whole.
_MEMBERS = {"format", "checkpoint", "rotations", "event", "prediction", "manifests", "served"}
_SEALED = "lineal.api.monitor.v1.SegmentSealed"


@dataclass(frozen=True)
class Proven:
    """What a proof shows. All but the first two are there for a prediction only, `served` if the file has rows."""

    checkpoint: Checkpoint
    event: EventRecord
    prediction: PredictionRecord | None = None
    manifests: list[dict[str, Any]] = field(default_factory=list)
    served: Served | None = None


def of_event(services: Services, position: int) -> dict[str, Any]:
    """Return the proof that an event is in the log, as JSON values. Raises CallFailed."""
    return _of_events(services, position)[0]


def _of_events(services: Services, position: int, *others: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the proof of an event, and others of the same checkpoint."""
    found = services.proofs.call("GetCheckpoint", proof_api.GetCheckpointRequest())
    event, *events = (_event_proof(services, one, found.size) for one in (position, *others))
    # Asked for last: it then has whoever vouches for the key that has signed.
    keys = services.proofs.call("ListKeys", proof_api.ListKeysRequest())
    made = {"format": FORMAT, "checkpoint": found.checkpoint, "rotations": list(keys.rotations), "event": event}
    return made, events


def _event_proof(services: Services, position: int, size: int) -> dict[str, Any]:
    found = services.proofs.call("GetInclusionProof", proof_api.GetInclusionProofRequest(position=position, size=size))
    return {"record": text_of(found.record), "path": [text_of(one) for one in found.path]}


def of_prediction(services: Services, prediction_id: str, *, rows: bool = True) -> dict[str, Any]:
    """Return the proof of a prediction, as JSON values; with the rows behind its features unless `rows` is false.

    Raises CallFailed, also when there are more than 10,000 rows behind one view.
    """
    request = monitor_api.GetPredictionProofRequest(prediction_id=prediction_id)
    found = services.monitor.call("GetPredictionProof", request, timeout=60)
    behind = served.collect(services, found) if rows else None
    made, events = _of_events(services, found.position, *(behind.positions if behind else ()))
    made |= {
        "prediction": {
            "record": text_of(found.record),
            "index": found.index,
            "path": [text_of(one) for one in found.path],
        },
        "manifests": [text_of(one) for one in found.manifests],
    }
    return made if behind is None else made | {"served": {"events": events, "rows": behind.rows}}


def check(proof: Any, trusted: PublicKey) -> Proven:
    """Return what a proof shows. Needs no service.

    Raises ProofInvalid with the layer that does not hold.
    """
    if not isinstance(proof, Mapping) or proof.get("format") != FORMAT:
        raise ProofInvalid("file", f"is no proof of the format {FORMAT}")
    if unknown := proof.keys() - _MEMBERS:
        raise ProofInvalid("file", f"has what no proof has: {', '.join(sorted(map(repr, unknown)))}")
    checkpoint = _checkpoint(proof, trusted)
    event = _event(proof, checkpoint)
    if "prediction" not in proof:
        return Proven(checkpoint, event)
    prediction = _prediction(proof, event)
    proven = Proven(checkpoint, event, prediction, list(_manifests(proof, prediction)))
    if "served" not in proof:
        return proven
    return replace(proven, served=served.check(proof["served"], checkpoint, prediction, proven.manifests))


def audit(services: Services, trusted: PublicKey, progress: Callable[[int, int], None]) -> Checkpoint:
    """Read the whole log and return the checkpoint that it fits; `progress` gets the events read and those in all.

    Every record is hashed anew, so what the database says of its hashes counts for nothing. Raises ProofInvalid and
    CallFailed.
    """
    keys = services.proofs.call("ListKeys", proof_api.ListKeysRequest())
    note = services.proofs.call("GetCheckpoint", proof_api.GetCheckpointRequest()).checkpoint
    checkpoint = _checkpoint({"checkpoint": note, "rotations": list(keys.rotations)}, trusted)
    tree = merkle.Growing()
    lineage = services.lineage
    responses = lineage.stub.Subscribe(lineage_api.SubscribeRequest())
    try:
        while tree.size < checkpoint.size:
            for stored in next(responses).records[: checkpoint.size - tree.size]:
                _add(tree, stored)
            progress(tree.size, checkpoint.size)
    except grpc.RpcError as error:
        raise call_failed(error, lineage.name, lineage.address) from error
    finally:
        responses.cancel()
    if tree.root() != checkpoint.root:
        raise ProofInvalid("log", f"its {checkpoint.size} events do not lead to the root that was signed")
    return checkpoint


def _add(tree: merkle.Growing, stored: StoredRecord) -> None:
    leaf = merkle.leaf_hash(stored.record)
    try:
        position = EventRecord.FromString(stored.record).position
    except DecodeError:
        position = 0
    if position != tree.size + 1:
        raise ProofInvalid("log", f"the event after position {tree.size} was changed, or is missing")
    if leaf != stored.leaf_hash:
        raise ProofInvalid("log", f"the event at position {position} was changed: its hash is another one")
    tree.add(leaf)


def _checkpoint(proof: Mapping[str, Any], trusted: PublicKey) -> Checkpoint:
    layer = "checkpoint"
    note, rotations = member(proof, "checkpoint", str, layer), member(proof, "rotations", list, layer)
    try:
        keys = trusted_keys(trusted, trusted.name, [str(rotation) for rotation in rotations])
        found = Checkpoint.parse(verified(note, keys))
    except NoteWrong as error:
        raise ProofInvalid(layer, str(error)) from error
    if found.origin != trusted.name:
        raise ProofInvalid(layer, f"is of the log {found.origin}, not of {trusted.name}")
    return found


def _event(proof: Mapping[str, Any], checkpoint: Checkpoint) -> EventRecord:
    return logged(member(proof, "event", dict, "log"), checkpoint)


def _prediction(proof: Mapping[str, Any], event: EventRecord) -> PredictionRecord:
    layer = "segment"
    if event.type != _SEALED:
        raise ProofInvalid(layer, f"the event is a {event.type}, not the sealing of a segment")
    try:
        sealed = SegmentSealed.FromString(event.payload)
        root = bytes.fromhex(sealed.merkle_root)
    except (DecodeError, ValueError) as error:
        raise ProofInvalid(layer, str(error)) from error
    layer = "prediction"
    given = member(proof, "prediction", dict, layer)
    data = bytes_of(member(given, "record", str, layer), layer)
    index = member(given, "index", int, layer)
    try:
        # The number of leaves is the event's: a root alone does not tell trees of different sizes apart.
        merkle.check_inclusion(merkle.leaf_hash(data), index, sealed.leaves, path_of(given, layer), root)
        return PredictionRecord.FromString(data)
    except (DecodeError, ProofWrong) as error:
        raise ProofInvalid(layer, str(error)) from error


def _manifests(proof: Mapping[str, Any], prediction: PredictionRecord) -> Sequence[dict[str, Any]]:
    layer = "manifest"
    given = [bytes_of(one, layer) for one in member(proof, "manifests", list, layer)]
    by_digest = {hashlib.sha256(data).hexdigest(): data for data in given}
    found: list[dict[str, Any]] = []

    def follow(digest: str, what: str) -> dict[str, Any]:
        if digest not in by_digest:
            raise ProofInvalid(layer, f"the manifest of {what} {digest[:12]} is not there, or was changed")
        value = json.loads(by_digest.pop(digest))
        found.append(value)
        return dict(value)

    # A fallback has answered where there is no digest.
    bundle = follow(prediction.bundle_digest, "the bundle") if prediction.bundle_digest else None
    if bundle and bundle["training_set_digest"]:
        training_set = follow(bundle["training_set_digest"], "the training set")
        for snapshot in sorted(set(training_set["snapshots"].values())):
            follow(snapshot, "the snapshot")
    if by_digest:
        raise ProofInvalid(layer, f"nothing leads to {', '.join(digest[:12] for digest in by_digest)}")
    return found
