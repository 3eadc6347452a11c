import numpy as np
import pandas as pd

from lineal.api.monitor.v1.report_pb2 import ReleaseReport, ReleaseStage, Verdict
from lineal.api.registry.v1.endpoint_pb2 import ReleasePolicy
from services.monitor.release import Step, judge

CANDIDATE, CHAMPION = "a" * 64, "b" * 64
POLICY = ReleasePolicy(
    shadow_units=50, canary_shares=[0.1, 0.5], min_units=300, max_units=3000, alpha=0.01, brier_tolerance=0.01
)
CANARY = Step(ReleaseStage.RELEASE_STAGE_CANARY, 2, 3, 0.1, last=False)
LAST = Step(ReleaseStage.RELEASE_STAGE_CANARY, 2, 3, 0.1, last=True)
SHADOW = Step(ReleaseStage.RELEASE_STAGE_SHADOW, 2, 2, 0.0, last=False)


def rows(count: int, noise: float = 0.0, share: float = 0.1, seed: int = 1, with_outcome: bool = True) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    chance = generator.random(count)
    score = np.clip(chance + generator.normal(0, 0.02, count), 0.01, 0.99)
    return pd.DataFrame(
        {
            "prediction_id": [f"p{n:06d}" for n in range(count)],
            "unit": [f"u{n}" for n in range(count)],
            "generation": 3,
            "bundle_digest": np.where(generator.random(count) < share, CANDIDATE, CHAMPION),
            "candidate_score": np.clip(score + generator.normal(0, noise, count), 0.01, 0.99) if noise else score,
            "champion_score": score,
            "candidate_scored": True,
            "champion_scored": True,
            "candidate_failed": False,
            "champion_failed": False,
            "outcome": (generator.random(count) < chance).astype(float) if with_outcome else np.nan,
            "arrival": np.arange(count, dtype=float),
        }
    )


def verdict(frame: pd.DataFrame, step: Step = CANARY) -> ReleaseReport:
    return judge(frame, step, POLICY, CANDIDATE, CHAMPION)


def test_an_equal_candidate_is_promoted() -> None:
    assert verdict(rows(800), LAST).verdict == Verdict.VERDICT_PASS


def test_a_harmful_candidate_fails() -> None:
    report = verdict(rows(1000, noise=0.4))
    assert report.verdict == Verdict.VERDICT_FAIL
    assert "harm" in report.finding


def test_too_few_outcomes_wait() -> None:
    assert verdict(rows(100)).verdict == Verdict.VERDICT_WAIT
    assert verdict(rows(1000, with_outcome=False)).verdict == Verdict.VERDICT_WAIT


def test_a_failing_candidate_fails_without_any_outcome() -> None:
    frame = rows(400, with_outcome=False)
    frame.loc[frame.index[::4], "candidate_failed"] = True
    report = verdict(frame)
    assert report.verdict == Verdict.VERDICT_FAIL
    assert "failures" in report.finding


def test_the_shadow_passes_on_units_scored() -> None:
    assert verdict(rows(49, share=0), SHADOW).verdict == Verdict.VERDICT_WAIT
    assert verdict(rows(51, share=0), SHADOW).verdict == Verdict.VERDICT_PASS


def test_a_broken_split_is_invalid() -> None:
    assert verdict(rows(1000, share=0.3)).verdict == Verdict.VERDICT_INVALID


def test_a_unit_counts_once() -> None:
    frame = rows(1000)
    frame["unit"] = "the same"
    assert verdict(frame).paired_units == 1


def test_predictions_without_a_key_stay_outside() -> None:
    frame = rows(1000)
    frame["unit"] = ""
    assert verdict(frame).paired_units == 0


def test_the_same_rows_give_the_same_evidence() -> None:
    frame = rows(500)
    again = verdict(frame.sample(frac=1, random_state=3))
    assert again.SerializeToString(deterministic=True) == verdict(frame).SerializeToString(deterministic=True)


def test_a_step_without_a_verdict_asks_a_person() -> None:
    frame = rows(3500, noise=0.16)
    assert verdict(frame, LAST).verdict in (Verdict.VERDICT_INCONCLUSIVE, Verdict.VERDICT_FAIL)


def test_of_several_classes_a_person_decides_what_no_test_compares() -> None:
    few, many = (judge(rows(count), LAST, POLICY, CANDIDATE, CHAMPION, classes=True) for count in (20, 1000))
    assert few.verdict == Verdict.VERDICT_WAIT
    assert many.verdict == Verdict.VERDICT_INCONCLUSIVE
    assert "a person decides" in many.finding
    # However good or bad the scores look: a probability of one class is not compared with that of another.
    assert (many.paired_units, many.harm_e_value) == (0, 1.0)


def test_failures_stop_a_canary_of_several_classes() -> None:
    frame = rows(1000)
    frame["candidate_failed"] = True
    assert judge(frame, LAST, POLICY, CANDIDATE, CHAMPION, classes=True).verdict == Verdict.VERDICT_FAIL


def test_no_rows_wait() -> None:
    assert verdict(rows(0)).verdict == Verdict.VERDICT_WAIT
