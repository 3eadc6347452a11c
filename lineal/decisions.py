"""Decisions on people, as the SDK has them: what would have changed one."""

import pandas as pd

from lineal.calls import Services
from lineal.reasons import counterfactuals, value


class Decisions:
    """`client.decisions`. All methods raise CallFailed."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def counterfactuals(self, prediction_id: str, most: int = 0) -> pd.DataFrame:
        """Return what would have changed a recorded decision: a row per change, with the number of its counterfactual.

        At most so many counterfactuals, 0 is 3; none where nothing was found. `distance` is the share of the
        population between `old` and `new`; `score` and `decision` are those with all changes of the counterfactual.
        """
        found = counterfactuals(self._services, prediction_id, most).counterfactuals
        rows = [
            (
                number,
                change.column,
                value(change, "old"),
                value(change, "new"),
                change.distance,
                each.score,
                each.decision,
            )
            for number, each in enumerate(found, 1)
            for change in each.changes
        ]
        names = ("counterfactual", "column", "old", "new", "distance", "score", "decision")
        return pd.DataFrame(rows, columns=list(names))
