"""Finds artifacts that no event names, and what writers left behind, and deletes them. Blocking.

An artifact is put before the event that names it is appended, and putting it again makes it young again. So what no
event named when the log was read, and was not put for longer than that ever takes, is not named later without being put
again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from chassis.artifacts import ArtifactStore, StoredArtifact
from chassis.errors import RuleViolated
from chassis.leftovers import Leftover
from lineal import merkle
from services.lineage.named import Named
from services.lineage.store import EventStore

_PAGE = 1000
_ARTIFACTS = 50


class CannotTellNamed(RuleViolated):
    """What the log names cannot be told, because something that it has or names is damaged or missing."""


@dataclass(frozen=True)
class Progress:
    """How far a collection is, and the unnamed artifacts and leftovers since the last one."""

    stage: str
    examined: int
    total: int
    unnamed: list[StoredArtifact] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)


class Collection:
    """One collection of artifacts that were last put before a time, and of leftovers of before."""

    def __init__(
        self, store: EventStore, artifacts: ArtifactStore, head: Callable[[], int], before: datetime, *, delete: bool
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._grown_to = head
        self._before = before
        self._delete = delete
        self._position = 0
        self._examined = 0
        self._named = Named(artifacts)
        self._sealed: set[str] = set()

    def run(self) -> Iterator[Progress]:
        """Collect page after page.

        Raises CannotTellNamed, ArtifactCorrupt and CannotCollect, before anything is deleted.
        """
        stored = self._artifacts.listed()
        yield from self._mark()
        old = [each for each in stored if each.time < self._before and not self._is_named(each.digest)]
        # To read what the log names may have taken long.
        yield from self._mark()
        for start in range(0, len(old), _ARTIFACTS):
            unnamed = [each for each in old[start : start + _ARTIFACTS] if self._collected(each)]
            yield Progress("unnamed", min(start + _ARTIFACTS, len(old)), len(old), unnamed)
        left = list(self._artifacts.leftovers(self._before, delete=self._delete))
        yield Progress("leftovers", len(left), len(left), leftovers=left)

    def _collected(self, each: StoredArtifact) -> bool:
        if self._is_named(each.digest):
            return False
        return self._artifacts.remove(each.digest, self._before) if self._delete else True

    def _is_named(self, digest: str) -> bool:
        return digest in self._named or digest in self._sealed

    def _mark(self) -> Iterator[Progress]:
        """Add what the log names up to its head."""
        head = self._grown_to()
        while self._position < head:
            self._page(head)
            yield Progress("log", self._position, head)
        self._sealed = {each.digest for each in self._store.sealed.ranges()}
        for _, wrong in self._named.verified():
            if wrong:
                raise CannotTellNamed(f"nothing is deleted: {wrong}; `lineal doctor --verify` finds all that is wrong")
            self._examined += 1
            if self._examined % _ARTIFACTS == 0:
                yield Progress("artifacts", self._examined, self._named.count)
        yield Progress("artifacts", self._examined, self._named.count)

    def _page(self, head: int) -> None:
        rows = self._store.rows(self._position, min(_PAGE, head - self._position))
        for row in rows:
            stored = self._store.sealed.filled(row)
            if stored.position != self._position + 1 or merkle.leaf_hash(stored.record) != stored.leaf_hash:
                break
            self._named.add(stored.position, stored.record)
            self._position += 1
        else:
            if rows:
                return
        raise CannotTellNamed(
            f"nothing is deleted: the event at position {self._position + 1} is missing or was changed; "
            "`lineal doctor --verify` says more"
        )
