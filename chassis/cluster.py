"""A Dask cluster, and steps that run on it: the one module of the chassis that imports Dask.

Without the address of a scheduler the cluster is a few processes of this machine.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
from dask import distributed

from chassis.errors import Unavailable
from chassis.settings import ClusterSettings

# A step that was under way on a killed worker is not to blame for it, unless it happens again and again.
_LOST_WORKERS_PER_STEP = 10
# Workers use memory that arrays of up to 16 MiB gave back again, instead of asking the system for new pages each time.
_ALLOCATION = {
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 16 * 1024 * 1024,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 1024 * 1024,
}

Step = tuple[Any, ...]  # a function and its arguments


class WorkCancelled(Unavailable):
    """Work was cancelled; a second call goes on where it was left."""


class Stop:
    """Asks work to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._cancel: Callable[[], None] | None = None

    def set(self) -> None:
        """Stop: steps that have not begun are not begun."""
        with self._lock:
            self._stopped = True
            if self._cancel is not None:
                self._cancel()

    def watch(self, cancel: Callable[[], None] | None) -> None:
        """Say how what is under way now is cancelled; at once when it was asked for already."""
        with self._lock:
            self._cancel = cancel
            if self._stopped and cancel is not None:
                cancel()


class Cluster:
    """Workers, started or connected to on first use and kept warm."""

    def __init__(self, settings: ClusterSettings, folder: Path) -> None:
        """Keep what workers of this machine put aside in a folder."""
        self._settings = settings
        self._folder = folder
        self._lock = threading.Lock()
        self._cluster: Any = None
        self._client: Any = None

    def connect(self, starting: Callable[[], None]) -> None:
        """See that there are workers; `starting` is called when there are none yet. Blocks."""
        with self._lock:
            if self._client is not None and self._client.status == "running":
                return
            starting()
            address = self._settings.dask_scheduler
            if address is None:
                dask.config.set({"distributed.scheduler.allowed-failures": _LOST_WORKERS_PER_STEP} | _ALLOCATION)
                # Loopback, without the dashboard: whoever reaches a scheduler can run code in its workers. Its health
                # page takes any free port, or two clusters on a machine would both want 8787.
                self._cluster = distributed.LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=self._settings.dask_workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    memory_limit=f"{self._settings.dask_worker_mebibytes}MiB",
                    local_directory=str(self._folder),
                )
            where = self._cluster if address is None else address
            self._client = distributed.Client(  # type: ignore[no-untyped-call]
                where, set_as_default=False, security=self._security() if address else None
            )

    def results(self, steps: Mapping[str, Step], stop: Stop) -> Iterator[tuple[str, Any]]:
        """Run steps that need nothing of each other; yield their results by name as they come.

        Raises WorkCancelled, and what a step raises.
        """
        client = self._client
        futures = {client.submit(step[0], *step[1:], pure=False): name for name, step in steps.items()}
        stop.watch(lambda: client.cancel(list(futures)))
        try:
            for future in distributed.as_completed(list(futures), loop=client.loop):  # type: ignore[no-untyped-call]
                if future.cancelled():
                    raise WorkCancelled("the work was cancelled; the same call goes on where it was left")
                yield futures[future], future.result()
        finally:
            stop.watch(None)
            client.cancel(list(futures))

    def worker_pids(self) -> list[int]:
        """Return the processes of the workers of this machine."""
        with self._lock:
            return [] if self._cluster is None else [nanny.pid for nanny in self._cluster.workers.values()]

    def close(self) -> None:
        """Stop the workers of this machine."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            if self._cluster is not None:
                self._cluster.close()
            self._client = self._cluster = None

    def _security(self) -> Any:
        if self._settings.dask_tls_ca is None:
            return None
        return distributed.Security(  # type: ignore[no-untyped-call]
            require_encryption=True,
            tls_ca_file=str(self._settings.dask_tls_ca),
            tls_client_cert=str(self._settings.dask_tls_certificate),
            tls_client_key=str(self._settings.dask_tls_key),
        )
