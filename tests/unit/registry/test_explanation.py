from typing import Any

import pytest

from lineal.api.registry.v1.explanation_pb2 import AdverseScores, ExplanationPolicy, ReasonGroup, ReasonText
from services.registry import explanation
from services.registry.explanation import PolicyChanged, PolicyMissing, ReasonMissing, ReviewedByAuthor


def group(*columns: str, code: str = "R1", text: str = "too much of it") -> ReasonGroup:
    return ReasonGroup(columns=columns, raises=ReasonText(code=code, text=text))


def policy(*groups: ReasonGroup, **fields: Any) -> ExplanationPolicy:
    return ExplanationPolicy(adverse_scores=AdverseScores.ADVERSE_SCORES_HIGH, reasons=groups, **fields)


RIGHT = policy(group("debt", "loans"), group("late", code="R2"))


def test_a_right_policy_is_taken() -> None:
    assert explanation.check(RIGHT) == []


@pytest.mark.parametrize(
    ("wrong", "field", "remedy"),
    [
        (ExplanationPolicy(reasons=[group("debt")]), "adverse_scores", "high or low"),
        (policy(group("debt"), group("debt", code="R2")), "reasons", "column 'debt' stands there 2 times"),
        (policy(group("debt"), group("late")), "reasons", "code 'R1' stands there 2 times"),
        (policy(group()), "reasons.0.columns", "name at least one column"),
        (policy(ReasonGroup(columns=["debt"])), "reasons.0", "give raises, lowers or both"),
        (policy(group("debt", text="")), "reasons.0.raises", "a code and a text"),
        (policy(growing_columns=["age"], immutable_columns=["age"]), "immutable_columns", "'age'"),
    ],
)
def test_a_wrong_policy_is_refused_with_field_and_remedy(wrong: ExplanationPolicy, field: str, remedy: str) -> None:
    (found,) = explanation.check(wrong)
    assert found.field == f"model.explanations.{field}"
    assert remedy in found.description


def test_a_policy_is_reviewed_by_another_person_who_has_read_it() -> None:
    digest = explanation.digest_of(RIGHT)

    def review(who: str = "person:grace", why: str = "read", of: str = digest, *, reviewed: bool = False) -> int:
        return len(
            explanation.review(RIGHT, "credit", reviewed=reviewed, digest=of, authors=["person:ada"], who=who, why=why)
        )

    assert review() == 1
    assert review(reviewed=True) == 0
    with pytest.raises(ReviewedByAuthor, match="another person"):
        review("person:ada")
    with pytest.raises(ReasonMissing):
        review(why="")
    with pytest.raises(PolicyChanged):
        review(of="0" * 64)
    with pytest.raises(PolicyMissing):
        explanation.review(None, "credit", reviewed=False, digest=digest, authors=[], who="person:grace", why="read")
