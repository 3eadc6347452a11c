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
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        if not lines:
            # A name of its own: another instance of the service may do the same.
            lines = [json.dumps(str(uuid.uuid4()))]
            self._path.write_text(lines[0] + "\n", encoding="utf-8")
        self.scratch = f"{artifacts}/{BUILDS}/{json.loads(lines[0])}"
        # What is gone on with is young again, so that it is not collected as work that was given up.
        with suppress(FileNotFoundError):
            os.utime(self.scratch)
        self._results: dict[str, Any] = {}
        for line in lines[1:]:
            try:
                step, result = json.loads(line)
            except ValueError:
                break  # cut short when the service died; what follows was never acknowledged
            self._results[step] = result

    def result(self, step: str, there: Callable[[Any], bool]) -> Any:
        """Return the result of a step, None where there is none or what it names is gone."""
        found = self._results.get(step)
        return found if found is not None and there(found) else None

    def record(self, step: str, result: Any) -> None:
        """Write down what a step returned."""
        self._results[step] = result
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([step, result]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def end(self) -> None:
        """Forget the work and remove the results of its steps."""
        if "://" in self.scratch:
            store, root = fsspec.core.url_to_fs(self.scratch)
            if store.exists(root):
                store.rm(root, recursive=True)
        else:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self._path.unlink(missing_ok=True)
