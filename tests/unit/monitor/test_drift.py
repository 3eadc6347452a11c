import numpy as np
import pytest

from services.monitor.detectors import ScipyDetector
from services.monitor.drift import Sample, discoveries, examine, stability_index


def sample(seed: int, shift: float = 0.0, missing: float = 0.0, rows: int = 2000) -> Sample:
    generator = np.random.default_rng(seed)
    amount = generator.normal(shift, 1, rows)
    amount[generator.random(rows) < missing] = np.nan
    return Sample(
        {"amount": amount, "steady": generator.normal(size=rows)},
        {"shop": generator.choice(["a", "b"], rows).astype(object)},
        generator.random(rows),
    )


def drifted(current: Sample, **changes: object) -> list[str]:
    options = {"ignored": [], "false_discovery_rate": 0.01, "min_effect": 0.1} | changes
    findings = examine(ScipyDetector(), sample(1), current, **options)  # type: ignore[arg-type]
    return [finding.column for finding in findings if finding.drifted]


def test_a_shifted_column_is_found_and_no_other() -> None:
    assert drifted(sample(2, shift=1.0)) == ["amount"]


def test_the_same_world_raises_nothing() -> None:
    assert all(drifted(sample(seed)) == [] for seed in range(2, 22))


def test_missing_values_are_found_by_themselves() -> None:
    assert drifted(sample(2, missing=0.3)) == ["amount"]


def test_an_ignored_column_is_not_examined() -> None:
    assert drifted(sample(2, shift=1.0), ignored=["amount"]) == []


def test_a_significant_difference_without_effect_is_no_drift() -> None:
    findings = examine(
        ScipyDetector(),
        sample(1, rows=50_000),
        sample(2, shift=0.05, rows=50_000),
        ignored=[],
        false_discovery_rate=0.01,
        min_effect=0.1,
    )
    amount = next(finding for finding in findings if finding.column == "amount")
    assert amount.p_value < 1e-6
    assert not amount.drifted


def test_a_null_column_is_passed_over_but_its_missing_values_are_not() -> None:
    current = sample(2)
    current.numeric["amount"][:] = np.nan
    assert drifted(current) == ["amount"]


def test_benjamini_hochberg_steps_up() -> None:
    # The example of their paper (1995), section 3.1: four rejections at 0.05.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240]
    p_values += [0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert discoveries(np.array(p_values), 0.05).sum() == 4


def test_the_stability_index_of_equal_shares_is_zero() -> None:
    assert stability_index(np.array([10.0, 20.0]), np.array([100.0, 200.0])) == pytest.approx(0)
