"""How much memory all processes of the demo hold at once, at most."""

import threading
from types import TracebackType

import psutil

_EVERY_SECONDS = 0.5


class PeakMemory:
    """Samples, while the block runs, the resident memory of this process and of all below it, in bytes.

    Pages that processes share are counted once for each, so the true figure is lower.
    """

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.bytes = 0

    def __enter__(self) -> "PeakMemory":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            self.bytes = max(self.bytes, sum(map(_resident, [self._root, *self._root.children(recursive=True)])))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended meanwhile
        return 0
