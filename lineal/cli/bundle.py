"""Commands about one bundle and the keys that sign bundles: export, sign, keys, revoke-key."""

from pathlib import Path
from typing import Annotated

import typer

from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.model_pb2 import SigningKey
from lineal.calls import new_request_id
from lineal.cli.output import moment, say, short, show
from lineal.cli.work import Reason, connect
from lineal.export import export_bundle

app = typer.Typer(no_args_is_help=True, help="Export and sign bundles; look at the keys that sign them.")

Digest = Annotated[str, typer.Argument(help="Digest of the bundle, or its beginning.")]


@app.callback()
def before() -> None:
    """Export and sign bundles; look at the keys that sign them."""


@app.command()
def export(
    digest: Digest,
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Write a bundle's files, its signature and the public key, for `model_signing verify key`."""
    with connect() as client:
        found = export_bundle(client.services, digest, folder)
    value = {"bundle_digest": found.bundle_digest, "folder": str(folder), "key_id": found.key_id, "check": found.check}
    show(value, ("bundle", "signed by key", "check it with"), [(short(found.bundle_digest), found.key_id, found.check)])


@app.command()
def sign(digest: Digest) -> None:
    """Sign a bundle anew after its files were read, for example when the key of its signature was revoked."""
    with connect() as client:
        request = api.SignBundleRequest(request_id=new_request_id(), bundle_digest=digest)
        found = client.services.registry.call("SignBundle", request)
    show(found, ("bundle", "signed at position"), [(digest, found.position)])


@app.command()
def keys(
    rotate: Annotated[bool, typer.Option("--rotate", help="Sign with a new key from now on.")] = False,
) -> None:
    """Show the keys that sign bundles, the newest last."""
    with connect() as client:
        registry = client.services.registry
        if rotate:
            registry.call("RotateSigningKey", api.RotateSigningKeyRequest(request_id=new_request_id()))
        found = registry.call("ListSigningKeys", api.ListSigningKeysRequest())
    rows = [
        (
            key.key_id,
            moment(key, "add_time"),
            moment(key, "expire_time"),
            _standing(key),
        )
        for key in found.keys
    ]
    show(found, ("key", "added", "expires", "standing"), rows)


@app.command("revoke-key")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Id of the key, as `lineal bundle keys` shows it.")],
    reason: Reason = "asked for on the command line",
) -> None:
    """Let nothing count that a key has signed; bundles that serve go on until they are loaded again."""
    with connect() as client:
        request = api.RevokeSigningKeyRequest(request_id=new_request_id(), key_id=key, reason=reason)
        client.services.registry.call("RevokeSigningKey", request)
    say(f"revoked {short(key)}; `lineal bundle sign` signs with the newest key what it had signed")


def _standing(key: SigningKey) -> str:
    if key.revoke_reason:
        return f"revoked: {key.revoke_reason}"
    return "counts" if key.trusted else "nobody vouches for it"
