"""How many rows each caller may have scored: a rate with a burst, and a budget a day, counted by this replica.

The rate is a token bucket: a caller has `burst_rows` tokens at most, gets `rows_per_second` of them a second and pays
one a row. A day is a day of UTC.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from chassis.errors import FieldViolation, InvalidArgument, Overloaded
from lineal.api.registry.v1.endpoint_pb2 import CallerLimits

_DAY_SECONDS = 86_400
# A caller who was not there for as many others begins anew. An account takes about 300 bytes.
_MOST_ACCOUNTS = 10_000


class RateExceeded(Overloaded):
    """A caller asks for more rows a second than an endpoint allows."""


class BudgetSpent(Overloaded):
    """A caller has had as many rows as an endpoint allows a day."""


class RequestOverLimit(InvalidArgument):
    """A request has more rows than a caller may ever have at once."""


@dataclass(slots=True)
class _Account:
    """What a caller has left: tokens as of a moment, and the rows of a day so far; both in seconds or days of UTC."""

    tokens: float
    moment: float
    day: int = 0
    rows: int = 0


class Limiter:
    """The accounts of all callers, by endpoint; the ones unused for longest are forgotten when there are too many."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Count by a clock in seconds since 1970-01-01 UTC."""
        self._now = now
        self._accounts: OrderedDict[tuple[str, str], _Account] = OrderedDict()

    def take(self, endpoint: str, limits: CallerLimits, caller: str, rows: int) -> None:
        """Charge a caller for rows, or nothing when they are refused.

        Raises RateExceeded, BudgetSpent, RequestOverLimit.
        """
        now = self._now()
        key = endpoint, caller
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(limits.burst_rows, now)
            if len(self._accounts) > _MOST_ACCOUNTS:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(key)
        rate, budget = limits.rows_per_second, limits.rows_per_day
        if rate:
            # A clock that is set back gives nothing and takes nothing.
            gained = max(0.0, now - account.moment) * rate
            account.tokens, account.moment = min(limits.burst_rows, account.tokens + gained), now
            if account.tokens < rows:
                raise _too_fast(endpoint, limits, caller, rows, account.tokens)
        if budget:
            day = int(now // _DAY_SECONDS)
            if day > account.day:
                account.day, account.rows = day, 0
            if account.rows + rows > budget:
                raise _spent(endpoint, limits, caller, rows, account.rows, _DAY_SECONDS - now % _DAY_SECONDS)
            account.rows += rows
        if rate:
            account.tokens -= rows


def _too_fast(
    endpoint: str, limits: CallerLimits, caller: str, rows: int, tokens: float
) -> RateExceeded | RequestOverLimit:
    if rows > limits.burst_rows:
        return _over(endpoint, rows, f"burst_rows {limits.burst_rows:,}")
    wait = (rows - tokens) / limits.rows_per_second
    return RateExceeded(
        f"{caller!r} asks {endpoint!r} for more than rows_per_second {limits.rows_per_second:,} (burst_rows "
        f"{limits.burst_rows:,}); come back in {wait:.3g} s, or have the endpoint's limits raised",
        retry_after=wait,
    )


def _spent(
    endpoint: str, limits: CallerLimits, caller: str, rows: int, had: int, wait: float
) -> BudgetSpent | RequestOverLimit:
    if rows > limits.rows_per_day:
        return _over(endpoint, rows, f"rows_per_day {limits.rows_per_day:,}")
    return BudgetSpent(
        f"{caller!r} has had {had:,} of rows_per_day {limits.rows_per_day:,} of {endpoint!r} from this replica, "
        f"{rows:,} more are too many; come back in {wait / 3600:.3g} h, or have the endpoint's limits raised",
        retry_after=wait,
    )


def _over(endpoint: str, rows: int, limit: str) -> RequestOverLimit:
    what = FieldViolation("columns", f"send fewer rows at a time, or have the endpoint's limits raised: {limit}")
    return RequestOverLimit(f"{rows:,} rows are more than {endpoint!r} allows a caller at once: {limit}", [what])
