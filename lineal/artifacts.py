"""Reads artifacts of a running suite."""

import hashlib
from pathlib import Path

import grpc

from lineal.api.lineage.v1.keeping_service_pb2 import ReadArtifactRequest
from lineal.calls import Services
from lineal.errors import LinealError, call_failed


def fetch(services: Services, digest: str, path: Path) -> bool:
    """Write an artifact to a file, its digest compared; False when there is none of that digest. Raises LinealError."""
    keeping, sha256 = services.keeping, hashlib.sha256()
    try:
        with path.open("wb") as file:
            for response in keeping.stub.ReadArtifact(ReadArtifactRequest(digest=digest)):
                sha256.update(response.data)
                file.write(response.data)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return False
        raise call_failed(error, keeping.name, keeping.address) from error
    if sha256.hexdigest() != digest:
        raise LinealError(f"artifact {digest} came with other bytes; `lineal doctor --verify` says more")
    return True
