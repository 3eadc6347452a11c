"""Exports a bundle as files that anybody checks without Lineal, with `model_signing verify key`.

bundle/       the bundle's files, and its manifest as `bundle.json`
bundle.sig    the signature over them
key.pem       the public key that the log says signed them
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.artifacts import fetch
from lineal.calls import Services
from lineal.errors import LinealError
from lineal.signature import MANIFEST_FILE, Signature, SignatureWrong, signed_files

# A name becomes a path: none leads out of the folder.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Exported:
    """A bundle that was exported, and the id of the key that signed it."""

    bundle_digest: str
    folder: Path
    key_id: str

    @property
    def check(self) -> str:
        """Return the command that checks it."""
        bundle, signature, key = (self.folder / name for name in ("bundle", "bundle.sig", "key.pem"))
        return f"model_signing verify key {bundle} --signature {signature} --public_key {key}"


def export_bundle(services: Services, digest: str, folder: Path) -> Exported:
    """Write a bundle, its signature and the key to a folder that is not there yet. Raises LinealError."""
    found = services.registry.call("GetBundle", api.GetBundleRequest(digest=digest)).bundle
    if not found.signature_digest:
        raise LinealError(
            f"bundle {found.digest[:12]} is not signed; `lineal bundle sign {found.digest[:12]}` signs it"
        )
    try:
        (folder / "bundle").mkdir(parents=True)
    except OSError as error:
        raise LinealError(f"folder: {folder / 'bundle'} cannot be made: {error.strerror}; name a new one") from error
    manifest = folder / "bundle" / MANIFEST_FILE
    _fetch(services, found.digest, manifest)
    files = json.loads(manifest.read_bytes())["files"]
    for name, file in files.items():
        if not _NAME.fullmatch(name):
            raise LinealError(f"the bundle has a file named {name!r}, which is no name for a file here")
        _fetch(services, file, folder / "bundle" / name)
    _fetch(services, found.signature_digest, folder / "bundle.sig")
    try:
        signature = Signature.parse((folder / "bundle.sig").read_bytes())
        pem = _key(services, signature.key_id)
        signature.verify(pem, signed_files(found.digest, files))
    except SignatureWrong as error:
        raise LinealError(f"bundle {found.digest[:12]}: its signature does not hold: {error}") from error
    (folder / "key.pem").write_text(pem, encoding="utf-8")
    return Exported(found.digest, folder, signature.key_id)


def _fetch(services: Services, digest: str, path: Path) -> None:
    if not fetch(services, digest, path):
        raise LinealError(f"artifact {digest}, {path.name} of the bundle, is missing; restore it from a backup")


def _key(services: Services, identity: str) -> str:
    for key in services.registry.call("ListSigningKeys", api.ListSigningKeysRequest()).keys:
        if key.key_id == identity and key.revoke_reason:
            raise SignatureWrong(f"its key {identity[:12]} was revoked: {key.revoke_reason}")
        if key.key_id == identity:
            return str(key.public_key)
    raise SignatureWrong(f"its key {identity[:12]} is not among the log's signing keys")
