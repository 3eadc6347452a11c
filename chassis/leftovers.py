"""What writers that ended in the middle left behind in a folder of artifacts: no artifacts, and named by nothing."""

import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

# Below it a build of a training set keeps the results of its steps, in a folder of its own until it ends.
BUILDS = "builds"
# What the names of files begin with that are being written.
PUT = ".put-"


@dataclass(frozen=True)
class Leftover:
    """A temporary file, or the folder of a build that nobody went on with; the time is that of its newest file."""

    name: str
    size: int
    time: datetime


def leftovers(root: Path, before: datetime, *, delete: bool) -> Iterator[Leftover]:
    """List what was last written before a time, and delete it when asked to."""
    for path in (*root.glob(f"??/{PUT}*"), *root.glob(f"{BUILDS}/*")):
        # What ends by itself in this moment is no leftover.
        with suppress(FileNotFoundError):
            found = _leftover(root, path)
            if found.time < before:
                if delete:
                    _delete(path)
                yield found


def _leftover(root: Path, path: Path) -> Leftover:
    stats = [each.stat() for each in (path, *path.rglob("*"))]
    size = sum(each.st_size for each in stats if stat.S_ISREG(each.st_mode))
    newest = max(each.st_mtime for each in stats)
    return Leftover(str(path.relative_to(root)), size, datetime.fromtimestamp(newest, UTC))


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
