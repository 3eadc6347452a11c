"""Build the training set of the flights on a warm local cluster.

`python -m benchmarks.flight_builds SNAPSHOTS ROUNDS MEBIBYTES [cold]`; SNAPSHOTS is the file that names them. Prints,
as JSON, the seconds of each round, the digest over the files built, their paths, and when each step of the last was
done. Each round begins with nothing kept of the one before. The first is not counted, unless `cold` says so.
"""

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.flight_snapshots import Snapshots, plan
from chassis.artifacts import LocalArtifactStore
from services.features.compute import Compute
from services.features.settings import Settings


def _main(file: str, rounds: int, mebibytes: int, warm: bool) -> None:
    snapshots = Snapshots(**json.loads(Path(file).read_text(encoding="utf-8")))
    wanted = plan(snapshots)
    seconds: list[float] = []
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="lineal-bench-") as folder:
        settings = Settings(
            data_dir=Path(folder), artifacts_url=snapshots.artifacts, dask_workers=2, dask_worker_mebibytes=mebibytes
        )
        compute = Compute(settings)
        try:
            for n in range(rounds + warm):
                began = time.perf_counter()
                stages = {}

                def progress(
                    stage: str, done: int, steps: int, began: float = began, stages: dict[str, float] = stages
                ) -> None:
                    stages[f"{stage} {done}/{steps}"] = round(time.perf_counter() - began, 2)

                built = compute.build(wanted, progress)
                if n or not warm:
                    seconds.append(time.perf_counter() - began)
        finally:
            compute.cluster.close()
    digest = hashlib.sha256(json.dumps(built.files).encode()).hexdigest()
    store = LocalArtifactStore(Path(snapshots.artifacts))
    files = [str(store.path(name)) for name, _ in built.files]
    print(json.dumps({"seconds": seconds, "digest": digest, "files": files, "stages": stages}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "cold" not in sys.argv[4:])
