"""How arms did, from predictions with their outcomes."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lineal.api.features.v1.feature_set_pb2 import Label
from lineal.api.monitor.v1.prediction_pb2 import PredictionRecord
from lineal.api.monitor.v1.report_pb2 import ArmPerformance
from services.monitor.labels import has_classes

# The arm of answers that no model gave: the endpoint's declared fallback.
_FALLBACK = "fallback"


def by_models(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions that a model has answered; a fallback says nothing of any model's quality."""
    return frame[frame["arm"] != _FALLBACK]


def by_arm(frame: pd.DataFrame, label: Label | None) -> list[ArmPerformance]:
    """Return one entry per role and bundle that answered, the busiest first; none for a fallback.

    `frame` has the records where the label has several classes: what was decided stands there.
    """
    classes = has_classes(label)
    found = []
    for (arm, bundle), rows in by_models(frame).groupby(["arm", "bundle_digest"], sort=True):
        known = rows.dropna(subset=["outcome"])
        outcome, score = known["outcome"].to_numpy(dtype=float), known["score"].to_numpy(dtype=float)
        # The number of a class is no quantity, so nothing is averaged over it.
        comparable = len(known) > 0 and not classes
        entry = ArmPerformance(
            bundle_digest=str(bundle),
            arm=str(arm),
            predictions=len(rows),
            outcomes=len(known),
            auc=auc(outcome, score) if comparable else float("nan"),
            brier=float(np.mean((score - outcome) ** 2)) if comparable else float("nan"),
            outcome_mean=float(outcome.mean()) if comparable else float("nan"),
            score_mean=float(rows["score"].mean()),
        )
        if classes and len(known):
            decided = [PredictionRecord.FromString(record).decision for record in known["record"]]
            entry.accuracy = float(np.mean(outcome == np.array(decided)))
        found.append(entry)
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
