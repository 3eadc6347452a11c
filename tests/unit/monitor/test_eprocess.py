import numpy as np
import pytest

from services.monitor.eprocess import mean_above, mean_below, rate_above, split_differs


def test_nothing_is_known_before_the_first_value() -> None:
    assert mean_above(np.array([]), 0.0, least=-1.0) == 1.0
    assert rate_above(0, 0, 0.5) == pytest.approx(1.0)


def test_harm_is_found() -> None:
    values = np.clip(np.random.default_rng(1).normal(0.02, 0.1, 2000), -1, 1)
    assert mean_above(values, 0.0, least=-1.0) > 1000
    assert mean_below(values, 0.0, greatest=1.0) <= 1


def test_looking_at_every_step_rarely_raises_a_false_alarm() -> None:
    generator = np.random.default_rng(2)
    alarms = 0
    for _ in range(200):
        values = generator.choice([-0.3, 0.3], 1000) * generator.random(1000)
        alarms += any(mean_above(values[:n], 0.0, least=-1.0) >= 20 for n in range(20, 1001, 20))
    assert alarms / 200 <= 0.05


def test_more_failures_than_the_champion_are_found() -> None:
    assert rate_above(60, 20, 0.5) > 1000
    assert rate_above(20, 20, 0.5) < 1


def test_equal_failure_rates_rarely_raise_a_false_alarm() -> None:
    generator = np.random.default_rng(3)
    alarms = 0
    for _ in range(300):
        candidate = np.cumsum(generator.random(500) < 0.2)
        total = np.arange(1, 501)
        alarms += any(rate_above(int(c), int(n - c), 0.2) >= 20 for c, n in zip(candidate, total, strict=True))
    assert alarms / 300 <= 0.05


def test_a_broken_split_is_found_and_a_sound_one_is_not_however_often_it_is_looked_at() -> None:
    assert split_differs(100, 900, 0.05) > 1000
    assert split_differs(0, 200, 0.05) > 100
    assert split_differs(0, 0, 0.05) == pytest.approx(1.0)
    generator = np.random.default_rng(4)
    alarms = 0
    for _ in range(300):
        candidate = np.cumsum(generator.random(2000) < 0.05)
        looks = range(20, 2001, 20)
        alarms += any(split_differs(int(candidate[n - 1]), n - int(candidate[n - 1]), 0.05) >= 20 for n in looks)
    assert alarms / 300 <= 0.05


def test_the_split_of_a_shadow_says_nothing() -> None:
    assert split_differs(0, 500, 0.0) == 1.0
