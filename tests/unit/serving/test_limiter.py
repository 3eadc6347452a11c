import pytest

from lineal.api.registry.v1.endpoint_pb2 import CallerLimits
from services.serving import limiter
from services.serving.limiter import BudgetSpent, Limiter, RateExceeded, RequestOverLimit

# A day of UTC that has begun a while ago.
START = 20_000 * 86_400.0 + 3_600
RATE = CallerLimits(rows_per_second=10, burst_rows=20)


class Wound:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Wound:
    return Wound()


def take(
    limits: Limiter, declared: CallerLimits, rows: int, caller: str = "person:ada", endpoint: str = "shop"
) -> None:
    limits.take(endpoint, declared, caller, rows)


def test_a_burst_passes_and_what_comes_after_waits_for_the_rate(clock: Wound) -> None:
    limits = Limiter(clock)
    take(limits, RATE, 20)
    with pytest.raises(
        RateExceeded, match=r"'person:ada' asks 'shop' .* rows_per_second 10 .*come back in 0\.5 s"
    ) as over:
        take(limits, RATE, 5)
    assert over.value.retry_after == 0.5
    # What is refused is not charged.
    clock.now += 0.49
    with pytest.raises(RateExceeded):
        take(limits, RATE, 5)
    clock.now += 0.02
    take(limits, RATE, 5)
    clock.now += 1_000
    take(limits, RATE, 20)
    with pytest.raises(RateExceeded):
        take(limits, RATE, 1)


def test_over_a_long_time_a_caller_gets_the_rate_and_one_burst(clock: Wound) -> None:
    limits, passed = Limiter(clock), 0
    for _ in range(10_000):
        clock.now += 0.01
        try:
            take(limits, RATE, 1)
        except RateExceeded:
            continue
        passed += 1
    assert passed == pytest.approx(20 + 100 * 10, abs=1)


def test_callers_and_endpoints_have_accounts_of_their_own(clock: Wound) -> None:
    limits = Limiter(clock)
    for caller in ("person:ada", "person:bob"):
        for endpoint in ("shop", "bank"):
            take(limits, RATE, 20, caller, endpoint)
            with pytest.raises(RateExceeded):
                take(limits, RATE, 1, caller, endpoint)


def test_a_budget_lasts_until_the_next_day(clock: Wound) -> None:
    limits, budget = Limiter(clock), CallerLimits(rows_per_day=100)
    take(limits, budget, 60)
    with pytest.raises(BudgetSpent, match=r"has had 60 of rows_per_day 100 of 'shop' .* come back in 23 h") as spent:
        take(limits, budget, 41)
    assert spent.value.retry_after == 86_400 - 3_600
    take(limits, budget, 40)
    clock.now += 86_400 - 3_601
    with pytest.raises(BudgetSpent):
        take(limits, budget, 1)
    clock.now += 1
    take(limits, budget, 100)


def test_a_spent_budget_does_not_charge_the_rate(clock: Wound) -> None:
    limits, both = Limiter(clock), CallerLimits(rows_per_second=10, burst_rows=20, rows_per_day=15)
    take(limits, both, 10)
    with pytest.raises(BudgetSpent):
        take(limits, both, 10)
    take(limits, both, 5)
    with pytest.raises(BudgetSpent):
        take(limits, both, 5)


@pytest.mark.parametrize(
    ("declared", "limit"), [(RATE, "burst_rows 20"), (CallerLimits(rows_per_day=50), "rows_per_day 50")]
)
def test_what_can_never_pass_is_no_matter_of_waiting(clock: Wound, declared: CallerLimits, limit: str) -> None:
    with pytest.raises(
        RequestOverLimit, match=f"51 rows are more than 'shop' allows a caller at once: {limit}"
    ) as over:
        take(Limiter(clock), declared, 51)
    assert [violation.field for violation in over.value.violations] == ["columns"]


def test_a_clock_that_is_set_back_gives_and_takes_nothing(clock: Wound) -> None:
    limits = Limiter(clock)
    take(limits, RATE, 20)
    clock.now -= 10
    with pytest.raises(RateExceeded):
        take(limits, RATE, 1)
    clock.now += 0.5
    take(limits, RATE, 5)


def test_the_accounts_stay_within_bounds_and_those_used_last_stay(
    clock: Wound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "_MOST_ACCOUNTS", 10)
    limits = Limiter(clock)
    for number in range(1_000):
        take(limits, RATE, 1, f"person:{number}")
        if number % 5 == 0:
            clock.now += 0.1
            take(limits, RATE, 1, "person:ada")
    assert len(limits._accounts) == 10
    clock.now += 2
    take(limits, RATE, 20)
    with pytest.raises(RateExceeded):
        take(limits, RATE, 1)
