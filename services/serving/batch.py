"""`python -m services.serving.batch`: score the parts of a scoring on a Dask cluster, in a process of its own.

So predictions share no memory and no interpreter with it, and it ends with the replica that started it. Parts that are
done are written down: the next run goes on where this one was left.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chassis.artifacts import artifact_store, canonical_json
from chassis.cluster import Cluster, Step, Stop
from chassis.jobs import Report, Spec, work
from chassis.journal import Journal
from chassis.settings import ClusterSettings
from services.serving import parts
from services.serving.parts import Past, Place

_SUMS = ("score_sum", "old_score_sum", "absolute_shift_sum")
_COUNTS = ("positive_decisions", "flips", "flips_from_zero", "flips_to_zero")


class PartsCollected(RuntimeError):
    """Parts of a result were collected before it was there to name them."""


def score(spec: Spec, report: Report) -> Mapping[str, Any]:
    """Score all parts that are not done; return the digest of the result's manifest and what the rows come to."""
    folder = Path(spec["folder"])
    place = Place(spec["artifacts"], str(folder / "artifact-cache"), spec["bundle"], spec["monitor"])
    artifacts = artifact_store(place.artifacts, Path(place.cache))
    journal = Journal(folder / "scorings", spec["scoring_id"], place.artifacts)

    def there(result: Mapping[str, Any]) -> bool:
        # It is about to be named, so it must not be collected meanwhile.
        return not result["rows"] or artifacts.touch(result["digest"])

    steps = {f"part {n}": step for n, step in enumerate(_steps(place, spec))}
    results = {name: journal.result(name, there) for name in steps}
    missing = {name: step for name, step in steps.items() if results[name] is None}
    done = len(steps) - len(missing)
    report("scoring", done, len(steps))
    if missing:
        cluster = Cluster(ClusterSettings(**spec["cluster"]), folder / "dask")
        try:
            cluster.connect(lambda: report("starting workers", done, len(steps)))
            for name, result in cluster.results(missing, Stop()):
                results[name] = result
                journal.record(name, result)
                done += 1
                report("scoring", done, len(steps))
        finally:
            cluster.close()
    found = list(results.values())
    if not all(there(result) for result in found):
        raise PartsCollected("parts of the result were collected while others were scored; call again")
    told = _told(found, past="past" in spec)
    manifest = {
        "kind": "lineal.scoring",
        "bundle": spec["bundle"],
        "source": spec["source"],
        "columns": next((result["columns"] for result in found if result["rows"]), []),
        "files": [{"digest": result["digest"], "rows": result["rows"]} for result in found if result["rows"]],
    }
    return {"result_digest": artifacts.put(canonical_json(manifest | told))} | told


def _steps(place: Place, spec: Spec) -> Iterator[Step]:
    for part in spec["parts"]:
        if "past" in spec:
            yield parts.predictions, place, part, Past(**spec["past"])
        else:
            yield parts.rows, place, part, bytes.fromhex(spec["schema"]), spec["kept"]


def _told(found: Sequence[Mapping[str, Any]], past: bool) -> dict[str, Any]:
    rows = sum(result["rows"] for result in found)
    sums = {name: math.fsum(result[name] for result in found) for name in _SUMS}
    counts = {name: sum(result[name] for result in found) for name in _COUNTS}
    share = 1 / rows if rows else 0.0
    told: dict[str, Any] = {
        "rows": rows,
        "score_mean": sums["score_sum"] * share,
        "positive_decisions": counts.pop("positive_decisions"),
    }
    if past:
        told["comparison"] = counts | {
            "old_score_mean": sums["old_score_sum"] * share,
            "mean_shift": (sums["score_sum"] - sums["old_score_sum"]) * share,
            "mean_absolute_shift": sums["absolute_shift_sum"] * share,
            "max_absolute_shift": max((result["max_absolute_shift"] for result in found), default=0.0),
            "without_vector": sum(result["without_vector"] for result in found),
        }
    return told


if __name__ == "__main__":
    sys.exit(work(score))
