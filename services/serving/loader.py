"""Load bundles: digests and signature first, then a trial in a process of its own, then here."""

import asyncio
import logging
import sys
from collections.abc import Mapping

from chassis.artifacts import ArtifactStore
from chassis.errors import LinealError, RuleViolated
from services.serving.signatures import Signatures
from tabular.bundle import GUARD_FILE, MODEL_FILE, Bundle, ManifestInvalid
from tabular.guard import Guard, GuardUnreadable
from tabular.scorer import ModelUnreadable, Scorer

_logger = logging.getLogger(__name__)
_TRIAL_SECONDS = 60.0


class BundleUnloadable(RuleViolated):
    """A bundle is damaged or not signed, or its model cannot be loaded."""


class Loader:
    """Makes scorers of bundles; a bundle is tried once, since its digest names the same bytes ever after."""

    def __init__(self, artifacts: ArtifactStore, signatures: Signatures) -> None:
        self._signatures = signatures
        self._artifacts = artifacts
        # Bundles that a trial survived, and whether their compiled applier may be loaded.
        self._tried: dict[str, bool] = {}

    async def load(self, digest: str) -> Scorer:
        """Return a scorer of a bundle. Raises BundleUnloadable, naming what is wrong with which file."""
        try:
            manifest, files = await asyncio.to_thread(self._verified, digest)
            model = files[MODEL_FILE]
            if digest not in self._tried:
                self._tried[digest] = await self._survives(digest, manifest + b"\n" + model)
            compiled = self._tried[digest]
            bundle = Bundle.from_bytes(manifest)
            guard = _guard(bundle, files)
            return await asyncio.to_thread(lambda: Scorer(bundle, model, compiled=compiled, guard=guard))
        except (ManifestInvalid, ModelUnreadable, GuardUnreadable) as error:
            raise BundleUnloadable(f"bundle {digest[:12]} cannot be loaded: {error}") from error

    def remember(self, digest: str, *, compiled: bool) -> None:
        """Note whether the compiled applier of a bundle has agreed with CatBoost so far; one that differs stays out."""
        self._tried[digest] = compiled

    async def check(self, digest: str) -> None:
        """Verify a bundle and try its model in a process of its own; load nothing here. Raises BundleUnloadable."""
        try:
            manifest, files = await asyncio.to_thread(self._verified, digest)
        except ManifestInvalid as error:
            raise BundleUnloadable(f"bundle {digest[:12]} cannot be loaded: {error}") from error
        await self._try(manifest + b"\n" + files[MODEL_FILE])

    def _verified(self, digest: str) -> tuple[bytes, dict[str, bytes]]:
        """Return a bundle's manifest and files, the very bytes whose digests were compared and are signed."""
        reading = "manifest"
        try:
            manifest = self._artifacts.read(digest)
            bundle = Bundle.from_bytes(manifest)
            files = {}
            # Reading a file verifies its digest; a bundle is whole or it is not loaded.
            for name, file in bundle.files.items():
                reading = name
                files[name] = self._artifacts.read(file)
            reading = "signature"
            self._signatures.check(digest, bundle.files)
        except (LinealError, OSError) as error:
            raise BundleUnloadable(f"bundle {digest[:12]} cannot be loaded: {reading}: {error}") from error
        if MODEL_FILE not in files:
            raise ManifestInvalid(f"its manifest names no {MODEL_FILE}")
        return manifest, files

    async def _survives(self, digest: str, data: bytes) -> bool:
        """Try a model; return whether its compiled applier may be loaded, which must not keep CatBoost from scoring."""
        try:
            await self._try(data, "--compiled")
        except BundleUnloadable as error:
            await self._try(data)
            _logger.warning("CatBoost itself scores bundle %s: %s", digest[:12], error.message)
            return False
        return True

    async def _try(self, data: bytes, *arguments: str) -> None:
        """Load and score in a child: what a damaged file can crash is that process, not this one."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tabular.probe",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_TRIAL_SECONDS):
                _, errors = await child.communicate(data)
        except TimeoutError:
            raise BundleUnloadable(f"a trial process could not load the model in {_TRIAL_SECONDS:g} s") from None
        finally:
            # Also when the service stops meanwhile.
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            why = errors.decode(errors="replace").strip()[-500:] or f"it died with code {child.returncode}"
            raise BundleUnloadable(f"a trial process could not load the model: {why}")


def _guard(bundle: Bundle, files: Mapping[str, bytes]) -> Guard | None:
    """Return the guard of a bundle, None where it has none: its model was imported."""
    data = files.get(GUARD_FILE)
    return None if data is None else Guard.from_bytes(data, bundle.numeric, bundle.categorical)
