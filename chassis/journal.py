"""What of long work is done: results of its steps by name, kept until it ends, so that a second call goes on."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from chassis.leftovers import BUILDS


class Journal:
    """The results of one piece of work in a file of the service, and the store of what they name."""

    def __init__(self, folder: Path, name: str, artifacts: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{name}.jsonl"
        lines = _whole(self._path)
        if not lines:
            # A name of its own: another instance of the service may do the same.
            lines = [str(uuid.uuid4())]
            self._write(lines[0])
        self.scratch = f"{artifacts}/{BUILDS}/{lines[0]}"
        # What is gone on with is young again, so that it is not collected as work that was given up.
        with suppress(FileNotFoundError):
            os.utime(self.scratch)
        self._results: dict[str, Any] = dict(lines[1:])

    @property
    def recorded(self) -> int:
        """How many steps were written down, also those of which the results are gone."""
        return len(self._results)

    def result(self, step: str, there: Callable[[Any], bool]) -> Any:
        """Return the result of a step, None where there is none or what it names is gone."""
        found = self._results.get(step)
        return found if found is not None and there(found) else None

    def record(self, step: str, result: Any) -> None:
        """Write down what a step returned."""
        self._results[step] = result
        self._write([step, result])

    def end(self) -> None:
        """Forget the work and remove the results of its steps."""
        if "://" in self.scratch:
            store, root = fsspec.core.url_to_fs(self.scratch)
            if store.exists(root):
                store.rm(root, recursive=True)
        else:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self._path.unlink(missing_ok=True)

    def _write(self, line: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole(path: Path) -> list[Any]:
    """Return the lines of a journal; what a death cut short was never acknowledged and is cut off.

    Else the next line would be glued to it, and both and all that follow be lost to the next start.
    """
    lines: list[Any] = []
    size = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            found = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            found = None
        if found is None:
            os.truncate(path, size)
            break
        lines.append(found)
        size += len(line)
    return lines
