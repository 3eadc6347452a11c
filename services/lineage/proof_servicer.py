"""ProofService: RPC in, application call, RPC out."""

import asyncio
import uuid
from typing import Any

from chassis.errors import FieldViolation, InvalidArgument
from lineal.api.lineage.v1 import proof_service_pb2 as api
from lineal.api.lineage.v1.proof_service_pb2_grpc import ProofServiceServicer
from services.lineage.proofs import Proofs


class ProofServicer(ProofServiceServicer):
    """Answers the RPCs about proofs."""

    def __init__(self, proofs: Proofs) -> None:
        self._proofs = proofs

    async def GetCheckpoint(self, request: api.GetCheckpointRequest, context: Any) -> api.GetCheckpointResponse:
        """Return a signed checkpoint."""
        note, size = await self._proofs.checkpoint(request.size)
        return api.GetCheckpointResponse(checkpoint=note, size=size)

    async def GetInclusionProof(
        self, request: api.GetInclusionProofRequest, context: Any
    ) -> api.GetInclusionProofResponse:
        """Prove that an event is in the log."""
        record, path, note = await self._proofs.inclusion(request.position, request.size)
        return api.GetInclusionProofResponse(record=record, path=path, checkpoint=note)

    async def GetConsistencyProof(
        self, request: api.GetConsistencyProofRequest, context: Any
    ) -> api.GetConsistencyProofResponse:
        """Prove that the log was only added to."""
        path, note = await self._proofs.consistency(request.old_size, request.size)
        return api.GetConsistencyProofResponse(path=path, checkpoint=note)

    async def ListKeys(self, request: api.ListKeysRequest, context: Any) -> api.ListKeysResponse:
        """List the keys that have signed."""
        keys = self._proofs.keys
        public = [str(signer.public) for signer in keys.signers]
        return api.ListKeysResponse(origin=keys.origin, keys=public, rotations=keys.rotations)

    async def RotateKey(self, request: api.RotateKeyRequest, context: Any) -> api.RotateKeyResponse:
        """Sign with a new key from now on."""
        try:
            uuid.UUID(request.request_id)
        except ValueError:
            raise InvalidArgument("the command has no id", [FieldViolation("request_id", "must be a UUID")]) from None
        signer, note = await asyncio.to_thread(self._proofs.keys.rotate, request.request_id)
        return api.RotateKeyResponse(key=str(signer.public), rotation=note)
