"""Reasons come from a reviewed map, against reference rows, and are what moved the decision."""

import hashlib
from typing import Any

import grpc
import numpy as np
import pytest

from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.explanation_pb2 import ExplanationPolicy
from tests.integration.serving.credit import Bank, policy, rows

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def bank(suite: Any) -> Bank:
    await suite.start("lineage", "registry", "monitor", "serving")
    return Bank(suite)


async def test_a_decision_is_told_with_its_reviewed_reasons(bank: Bank) -> None:
    await bank.open(policy())
    part = rows(60, 5)
    found = await bank.explain(part)
    basis = found.basis
    stored = ExplanationPolicy.FromString(bank.suite.artifacts.read(basis.policy_digest))
    assert (stored.most_reasons, basis.reviewed_by, found.without_reasons) == (4, "person:grace", "")
    assert hashlib.sha256(bank.suite.artifacts.read(basis.reference_digest)).hexdigest() == basis.reference_digest
    assert 0 < basis.reference_rows <= 500
    # Those that are decided favourably, so that the middle of them is.
    assert basis.reference_raw_score < 0
    answered = await bank.answers(part)
    assert [each.adverse for each in found.explanations] == [decision == 1 for decision in answered.decisions]
    for each in found.explanations:
        assert len(each.reasons) <= 4
        assert all((reason.contribution > 0) == each.adverse for reason in each.reasons)
        weights = [abs(reason.contribution) for reason in each.reasons]
        assert weights == sorted(weights, reverse=True)
        assert all((reason.code == "") == (list(reason.columns) == ["region"]) for reason in each.reasons)
    adverse = [each for each in found.explanations if each.adverse]
    codes = {reason.code for each in adverse for reason in each.reasons}
    assert {"R1", "R2", "R3", ""} <= codes
    assert found == await bank.explain(part)

    await assert_first_reasons_hold(bank)


async def assert_first_reasons_hold(bank: Bank) -> None:
    """Without the first reason a score is less adverse, of at least 95 in 100 decisions."""
    part = rows(150, 6)
    found = await bank.explain(part)
    answered = await bank.answers(part)
    # What is usual among applicants who are accepted.
    accepted = np.array(answered.decisions) == 0
    usual = {name: np.nanmedian(part[name][accepted]) for name in ("income", "debt", "late", "age", "months")}
    changed = {name: values.copy() for name, values in part.items()}
    adverse = [row for row, each in enumerate(found.explanations) if each.adverse]
    for row in adverse:
        for name in found.explanations[row].reasons[0].columns:
            changed[name][row] = usual.get(name, "north")
    scores = (await bank.answers(changed)).scores
    better = sum(scores[row] < answered.scores[row] for row in adverse)
    assert len(adverse) > 30
    assert better >= 0.95 * len(adverse)


async def test_a_policy_counts_once_another_person_has_reviewed_it(bank: Bank) -> None:
    await bank.open(None)
    assert "no reviewed explanations" in (await bank.explain(rows(1, 5))).without_reasons
    digest = await bank.declare(policy())
    with pytest.raises(grpc.aio.AioRpcError, match="person:ada declared the explanations"):
        await bank.review(digest, "ada")
    with pytest.raises(grpc.aio.AioRpcError, match="a review needs a reason"):
        await bank.review(digest, "grace", reason="")
    newer = await bank.declare(policy(most_reasons=2))
    with pytest.raises(grpc.aio.AioRpcError, match="are not declared as"):
        await bank.review(digest, "grace")
    await bank.review(newer, "grace")
    await bank.review(newer, "linus")
    standing = (await bank.registry.GetModel(registry_api.GetModelRequest(name="shop"))).review
    assert (standing.policy_digest, standing.reviewed_by, list(standing.declared_by)) == (
        newer,
        "person:grace",
        ["person:ada"],
    )
