"""The scorers held loaded: so many at most, the least recently used make room and are loaded again when asked for."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from services.serving.loader import Loader
from tabular.scorer import Scorer

# More would take each other's cores, and together go far over the bound.
_LOADS_AT_ONCE = 2


class Scorers:
    """Scorers by bundle digest. `loads` counts how many were loaded since the start."""

    def __init__(self, loader: Loader, most: int) -> None:
        self._loader = loader
        self._most = most
        self._held: OrderedDict[str, Scorer] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Scorer]] = {}
        self._turn = asyncio.Semaphore(_LOADS_AT_ONCE)
        self.loads = 0

    def __len__(self) -> int:
        return len(self._held)

    def held(self, digest: str) -> Scorer | None:
        """Return the scorer of a bundle that is loaded, None where it has to be waited for."""
        scorer = self._held.get(digest)
        if scorer is not None:
            self._held.move_to_end(digest)
        return scorer

    async def get(self, digest: str) -> Scorer:
        """Return the scorer of a bundle, loaded once for all who wait for it. Raises BundleUnloadable."""
        scorer = self.held(digest)
        if scorer is not None:
            return scorer
        loading = self._loading.get(digest)
        if loading is None:
            loading = self._loading[digest] = asyncio.create_task(self._load(digest))
            loading.add_done_callback(lambda done: self._loaded(digest, done))
        # Who gives up waiting does not take the others' scorer away.
        return await asyncio.shield(loading)

    def keep(self, digests: Iterable[str]) -> None:
        """Forget every other bundle."""
        for digest in self._held.keys() - set(digests):
            self._forget(digest)

    async def _load(self, digest: str) -> Scorer:
        async with self._turn:
            scorer = await self._loader.load(digest)
        self.loads += 1
        self._held[digest] = scorer
        while len(self._held) > self._most:
            self._forget(next(iter(self._held)))
        return scorer

    def _loaded(self, digest: str, done: "asyncio.Task[Scorer]") -> None:
        del self._loading[digest]
        if not done.cancelled():
            # Looked at, or a failure that everybody gave up waiting for would be logged as a mistake of ours.
            done.exception()

    def _forget(self, digest: str) -> None:
        scorer = self._held.pop(digest)
        self._loader.remember(digest, compiled=scorer.compiled)
