"""What lineage can prove about its log, and the checkpoints that it leaves in a second place."""

import asyncio
import posixpath
from collections.abc import Sequence
from functools import lru_cache

import fsspec

from chassis.errors import NotFound, RuleViolated
from lineal.notes import Checkpoint, NoteWrong, Signer, verified
from services.lineage.keys import Keys
from services.lineage.store import EventStore
from services.lineage.tree import Tree, tiles_of
from services.lineage.writer import Writer

_LATEST = "checkpoint"
# What the log was at a size never changes; most ask for its newest.
_CACHED_NOTES = 64


class SizeAhead(RuleViolated):
    """The log is not as long as is asked for."""


class EventMissing(NotFound):
    """No such event in a log of that size."""


class LogChanged(RuntimeError):
    """The log is not the one that a checkpoint was signed for."""


class Proofs:
    """Checkpoints and proofs, signed with the newest key."""

    def __init__(self, store: EventStore, tree: Tree, writer: Writer, keys: Keys) -> None:
        self._store = store
        self._tree = tree
        self._writer = writer
        self.keys = keys
        self._note = lru_cache(_CACHED_NOTES)(self._sign)

    async def checkpoint(self, size: int) -> tuple[str, int]:
        """Return the signed checkpoint of a size and the size; 0 is all of the log. Raises SizeAhead."""
        size = self._size(size)
        return await asyncio.to_thread(self._signed, size), size

    async def inclusion(self, position: int, size: int) -> tuple[bytes, Sequence[bytes], str]:
        """Return an event's record, its path and the checkpoint it leads to. Raises EventMissing, SizeAhead."""
        size = self._size(size)
        if not 0 < position <= size:
            raise EventMissing(f"there is no event at position {position} among the first {size}")
        return await asyncio.to_thread(self._inclusion, position, size)

    async def consistency(self, old: int, size: int) -> tuple[Sequence[bytes], str]:
        """Return the proof that the log was only added to since `old`, and the later checkpoint. Raises SizeAhead."""
        size = self._size(size)
        if old > size:
            raise SizeAhead(f"size {old} lies beyond {size}; give the earlier one as old_size")
        return await asyncio.to_thread(self._tree.consistency, old, size), (await self.checkpoint(size))[0]

    def _inclusion(self, position: int, size: int) -> tuple[bytes, Sequence[bytes], str]:
        record, tiles = self._store.in_tiles(position, tiles_of(position - 1, size))
        return record, self._tree.inclusion(position - 1, size, tiles), self._signed(size)

    def _signed(self, size: int) -> str:
        return self._note(size, self.keys.current)

    def _sign(self, size: int, signer: Signer) -> str:
        return signer.sign(Checkpoint(self.keys.origin, size, self._tree.root(size)).text())

    def _size(self, asked: int) -> int:
        head = self._writer.head
        if asked > head:
            raise SizeAhead(f"the log has {head} events, {asked} are asked for; 0 means all")
        return asked or head


class Witness:
    """A second place that keeps checkpoints, so that a database that was rewritten is noticed."""

    def __init__(self, url: str, proofs: Proofs, tree: Tree) -> None:
        self._files, self._folder = fsspec.core.url_to_fs(url)
        self._proofs = proofs
        self._tree = tree
        self._written = 0

    def check(self, head: int) -> None:
        """Raise LogChanged when the log is not what the newest checkpoint of the place says. Blocking."""
        latest = posixpath.join(self._folder, _LATEST)
        if not self._files.exists(latest):
            return
        keys = self._proofs.keys
        note = self._files.cat_file(latest).decode()
        try:
            found = Checkpoint.parse(verified(note, [signer.public for signer in keys.signers]))
        except NoteWrong as error:
            raise LogChanged(f"the checkpoint in {latest} is not one of this log: {error}") from error
        if found.origin != keys.origin:
            raise LogChanged(f"the checkpoint in {latest} is of the log {found.origin}, this one is {keys.origin}")
        if found.size > head:
            raise LogChanged(
                f"the log has {head} events, a checkpoint was signed for {found.size}: it was cut, or restored from an "
                f"older backup; restore a newer one, or accept the loss by moving {latest} away"
            )
        if self._tree.root(found.size) != found.root:
            raise LogChanged(
                f"the first {found.size} events are not those that a checkpoint was signed for: the database was "
                "rewritten; restore it from a backup, which the checkpoint proves or disproves"
            )
        self._written = found.size

    async def write(self) -> None:
        """Write a checkpoint if the log has grown since the last one."""
        note, size = await self._proofs.checkpoint(0)
        if size > self._written:
            await asyncio.to_thread(self._write, note, size)
            self._written = size

    def _write(self, note: str, size: int) -> None:
        self._files.makedirs(self._folder, exist_ok=True)
        # One that stays for good, then the newest, which takes its place whole.
        self._files.pipe_file(posixpath.join(self._folder, f"{size:020}.note"), note.encode())
        temporary = posixpath.join(self._folder, f"{_LATEST}.tmp")
        self._files.pipe_file(temporary, note.encode())
        self._files.mv(temporary, posixpath.join(self._folder, _LATEST))
