import pytest
from google.protobuf.message import Message

from lineal.api.registry.v1.model_pb2 import BundleState, GatePolicy
from lineal.api.trainer.v1.run_pb2 import BundleMetrics, Evaluation, Metric
from services.registry import bundle as bundles
from services.registry.bundle import BundleStanding

CANDIDATE, CHAMPION = "a" * 64, "b" * 64
POLICY = GatePolicy(min_rows=100, min_auc=0.6, max_auc_loss=0.01, max_brier_increase=0.005, max_rmse_increase=0.02)


def fold(state: BundleStanding, events: list[Message]) -> BundleStanding:
    for event in events:
        state = bundles.evolve(state, event)
    return state


def registered(training_set: str = "c" * 64) -> BundleStanding:
    events = bundles.register(
        BundleStanding(),
        digest=CANDIDATE,
        model="m",
        run_id="r",
        training_set_digest=training_set,
        signature_digest="e" * 64,
    )
    return fold(BundleStanding(), list(events))


def metric(name: str, value: float, margin: float = 0.002) -> Metric:
    return Metric(name=name, value=value, lower=value - margin, upper=value + margin)


def evaluation(
    auc: float = 0.7, auc_difference: float = 0.0, brier_difference: float = 0.0, rows: int = 1000
) -> Evaluation:
    return Evaluation(
        rows=rows,
        bundles=[
            BundleMetrics(bundle_digest=CANDIDATE, metrics=[metric("auc", auc)]),
            BundleMetrics(bundle_digest=CHAMPION, metrics=[metric("auc", 0.7)]),
        ],
        differences=[
            BundleMetrics(
                bundle_digest=CHAMPION,
                metrics=[metric("auc", auc_difference), metric("brier", brier_difference)],
            )
        ],
    )


def gated(evidence: Evaluation | None, policy: GatePolicy = POLICY, champion: str = CHAMPION) -> BundleStanding:
    state = registered("" if evidence is None else "c" * 64)
    events = bundles.evaluate(
        state,
        CANDIDATE,
        policy=policy,
        champion=champion,
        evaluation=evidence,
        evaluation_digest="" if evidence is None else "e" * 64,
    )
    return fold(state, list(events))


def test_a_bundle_that_holds_its_gates_may_be_released() -> None:
    assert gated(evaluation()).state == BundleState.BUNDLE_STATE_RELEASABLE


@pytest.mark.parametrize(
    ("evidence", "gate"),
    [
        (evaluation(rows=99), "rows"),
        (evaluation(auc=0.601), "auc"),
        (evaluation(auc_difference=-0.009), "auc against champion"),
        (evaluation(brier_difference=0.004), "brier against champion"),
    ],
)
def test_a_gate_fails_at_the_bad_end_of_the_interval(evidence: Evaluation, gate: str) -> None:
    state = gated(evidence)
    assert [result.gate for result in state.results if not result.passed] == [gate]
    assert state.state == BundleState.BUNDLE_STATE_REGISTERED
    with pytest.raises(bundles.BundleNotReleasable, match=gate):
        bundles.require(state, CANDIDATE)


def test_evidence_of_another_bundle_fails() -> None:
    evidence = evaluation()
    evidence.bundles[0].bundle_digest = "f" * 64
    assert gated(evidence).state == BundleState.BUNDLE_STATE_REGISTERED


def test_evidence_without_the_champion_fails() -> None:
    assert gated(evaluation(), champion="d" * 64).state == BundleState.BUNDLE_STATE_REGISTERED


def test_a_first_release_needs_no_champion() -> None:
    assert gated(evaluation(), champion="").state == BundleState.BUNDLE_STATE_RELEASABLE


def test_an_approval_is_waited_for_where_the_policy_asks() -> None:
    policy = GatePolicy(approval_required=True)
    policy.MergeFrom(POLICY)
    state = gated(evaluation(), policy)
    assert state.state == BundleState.BUNDLE_STATE_GATED
    bundles.require(state, CANDIDATE, shadow=True)
    with pytest.raises(bundles.BundleNotReleasable, match="approve"):
        bundles.require(state, CANDIDATE)
    state = fold(state, list(bundles.approve(state, CANDIDATE, reason="looked at it")))
    assert state.state == BundleState.BUNDLE_STATE_RELEASABLE


def test_an_imported_bundle_always_needs_a_person() -> None:
    assert gated(None).state == BundleState.BUNDLE_STATE_GATED


def test_a_trained_bundle_cannot_do_without_evidence() -> None:
    with pytest.raises(bundles.BundleNotReleasable):
        bundles.evaluate(registered(), CANDIDATE, policy=POLICY, champion="", evaluation=None, evaluation_digest="")


def test_a_rejection_is_final() -> None:
    state = gated(evaluation())
    state = fold(state, list(bundles.reject(state, CANDIDATE, reason="harm")))
    with pytest.raises(bundles.BundleNotReleasable):
        bundles.approve(state, CANDIDATE, reason="please")
    with pytest.raises(bundles.BundleAlreadyRejected):
        bundles.evaluate(
            state, CANDIDATE, policy=POLICY, champion="", evaluation=evaluation(), evaluation_digest="e" * 64
        )


def test_a_bundle_belongs_to_one_model() -> None:
    with pytest.raises(bundles.BundleElsewhere):
        bundles.register(
            registered(), digest=CANDIDATE, model="other", run_id="", training_set_digest="", signature_digest=""
        )
