"""Signed checkpoints in the second place: one file for each, `checkpoint` for the newest. Blocking."""

import posixpath
import re

import fsspec

from lineal.notes import Checkpoint, NoteWrong, verified
from services.lineage.keys import Keys

LATEST = "checkpoint"
_KEPT = re.compile(r"\d{20}\.note")


class CheckpointWrong(RuntimeError):
    """A file is not a checkpoint that this log has signed."""


class CheckpointFiles:
    """A folder or fsspec URL of checkpoints, read with the log's own keys."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._files, self._folder = fsspec.core.url_to_fs(url)
        self._keys = keys

    def names(self) -> list[str]:
        """Return the paths of all checkpoints."""
        if not self._files.exists(self._folder):
            return []
        names = [posixpath.basename(path) for path in self._files.ls(self._folder, detail=False)]
        return [posixpath.join(self._folder, name) for name in sorted(names) if name == LATEST or _KEPT.fullmatch(name)]

    def read(self, path: str) -> Checkpoint:
        """Return a checkpoint; CheckpointWrong when it was changed or is of another log."""
        try:
            found = Checkpoint.parse(
                verified(self._files.cat_file(path).decode(), [signer.public for signer in self._keys.signers])
            )
        except (NoteWrong, UnicodeDecodeError) as error:
            raise CheckpointWrong(f"{path} was changed, or this log has not signed it: {error}") from error
        if found.origin != self._keys.origin:
            raise CheckpointWrong(f"{path} is of the log {found.origin}, this one is {self._keys.origin}")
        name = posixpath.basename(path)
        if name != LATEST and int(name.partition(".")[0]) != found.size:
            raise CheckpointWrong(f"{path} is a checkpoint of {found.size} events: it was renamed")
        return found
