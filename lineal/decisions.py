"""Decisions on people, as the SDK has them: what would have changed one, and contests of them."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pandas as pd

from lineal.api.monitor.v1 import contest_service_pb2 as api
from lineal.api.monitor.v1.contest_pb2 import Contest, ContestState
from lineal.calls import Services, new_request_id
from lineal.errors import LinealError
from lineal.reasons import counterfactuals, value
from lineal.registered import pages

# Evidence is frozen meanwhile: the segment is sealed, and serving explains.
_CONTEST_SECONDS = 60.0
_STATES = ("open", "upheld", "overridden")


class Decisions:
    """`client.decisions`. All methods raise CallFailed, and LinealError for states that there are not."""

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

    def contest(self, prediction_id: str, *, reason: str) -> Contest:
        """Contest a recorded decision; return the contest, one that is open already if there is one."""
        request = api.ContestPredictionRequest(request_id=new_request_id(), prediction_id=prediction_id, reason=reason)
        found: Contest = self._services.contests.call("ContestPrediction", request, timeout=_CONTEST_SECONDS).contest
        return found

    def resolve(self, contest_id: str, resolution: str, *, reason: str) -> Contest:
        """Resolve a contest as `upheld` or `overridden`, as a person who has no part in it."""
        request = api.ResolveContestRequest(
            request_id=new_request_id(), contest_id=contest_id, resolution=_state(resolution), reason=reason
        )
        found: Contest = self._services.contests.call("ResolveContest", request).contest
        return found

    def contests(
        self,
        *,
        state: str = "",
        endpoint: str = "",
        as_of_position: int = 0,
        as_of_time: datetime | None = None,
    ) -> Iterator[Contest]:
        """Yield contests, oldest first, as they are or as they were at a log position or a time.

        `state` is `open`, `upheld` or `overridden`; empty is any.
        """
        asked = _moment(as_of_position, as_of_time)
        if state:
            asked["state"] = _state(state)
        for page in pages(self._services.contests, "ListContests", api.ListContestsRequest, endpoint=endpoint, **asked):
            yield from page.contests

    def evidence(
        self, contest_id: str, *, as_of_position: int = 0, as_of_time: datetime | None = None
    ) -> api.GetContestResponse:
        """Return a contest with what was frozen when the decision was contested."""
        request = api.GetContestRequest(contest_id=contest_id, **_moment(as_of_position, as_of_time))
        found: api.GetContestResponse = self._services.contests.call("GetContest", request)
        return found


def _state(name: str) -> ContestState.ValueType:
    if name not in _STATES:
        raise LinealError(f"a contest is {', '.join(_STATES[:-1])} or {_STATES[-1]}, not {name!r}")
    return ContestState.Value(f"CONTEST_STATE_{name.upper()}")


def _moment(position: int, time: datetime | None) -> dict[str, Any]:
    return {"as_of_position": position} | ({} if time is None else {"as_of_time": time})
