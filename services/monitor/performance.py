"""How arms did, from predictions with their outcomes."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lineal.api.monitor.v1.report_pb2 import ArmPerformance


def by_arm(frame: pd.DataFrame) -> list[ArmPerformance]:
    """Return one entry per role and bundle that answered, the busiest first."""
    found = []
    for (arm, bundle), rows in frame.groupby(["arm", "bundle_digest"], sort=True):
        known = rows.dropna(subset=["outcome"])
        outcome, score = known["outcome"].to_numpy(dtype=float), known["score"].to_numpy(dtype=float)
        found.append(
            ArmPerformance(
                bundle_digest=str(bundle),
                arm=str(arm),
                predictions=len(rows),
                outcomes=len(known),
                auc=auc(outcome, score),
                brier=float(np.mean((score - outcome) ** 2)) if len(known) else float("nan"),
                outcome_mean=float(outcome.mean()) if len(known) else float("nan"),
                score_mean=float(rows["score"].mean()),
            )
        )
    return sorted(found, key=lambda entry: -entry.predictions)


def auc(
    outcome: "np.ndarray[tuple[int], np.dtype[np.float64]]", score: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> float:
    """Return the area under the ROC curve by ranks (Mann and Whitney 1947); NaN unless exactly both classes occur."""
    positive = outcome == 1
    hits = int(positive.sum())
    if not 0 < hits < len(outcome) or not np.isin(outcome, (0.0, 1.0)).all():
        return float("nan")
    ranks = rankdata(score)[positive].sum()
    return float((ranks - hits * (hits + 1) / 2) / (hits * (len(outcome) - hits)))
