from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole
from services.serving.routing import Routes

A, B, C = "a" * 64, "b" * 64, "c" * 64


def arms(share: float) -> list[Arm]:
    return [
        Arm(bundle_digest=A, role=ArmRole.ARM_ROLE_CHAMPION),
        Arm(bundle_digest=B, role=ArmRole.ARM_ROLE_CHALLENGER, share=share),
        Arm(bundle_digest=C, role=ArmRole.ARM_ROLE_SHADOW),
    ]


def digest(share: float, key: str) -> str:
    arm = Routes("delay", arms(share)).arm(key)
    assert arm is not None
    return arm.bundle_digest


@given(st.text(), st.floats(0.01, 0.5), st.floats(0.01, 0.49))
def test_a_key_stays_with_the_challenger_while_its_share_grows(key: str, share: float, more: float) -> None:
    if digest(share, key) == B:
        assert digest(share + more, key) == B


@given(st.text(), st.tuples(*[st.floats(0.01, 0.2)] * 2), st.tuples(*[st.floats(0.0, 0.29)] * 2))
def test_a_key_stays_with_either_of_two_challengers_while_both_grow(
    key: str, shares: tuple[float, float], more: tuple[float, float]
) -> None:
    def answers(*shares: float) -> str:
        two = [
            Arm(bundle_digest=d, role=ArmRole.ARM_ROLE_CHALLENGER, share=s) for d, s in zip("bc", shares, strict=True)
        ]
        arm = Routes("delay", [Arm(bundle_digest=A, role=ArmRole.ARM_ROLE_CHAMPION), *two]).arm(key)
        assert arm is not None
        return arm.bundle_digest

    before = answers(*shares)
    if before != A:
        assert answers(*(share + grown for share, grown in zip(shares, more, strict=True))) == before


def test_shares_of_several_challengers_are_kept() -> None:
    shares = {"b": 0.1, "c": 0.2, "d": 0.3}
    several = [Arm(bundle_digest=d, role=ArmRole.ARM_ROLE_CHALLENGER, share=share) for d, share in shares.items()]
    routes = Routes("delay", [Arm(bundle_digest=A, role=ArmRole.ARM_ROLE_CHAMPION), *several])
    answered = Counter(arm.bundle_digest for n in range(20_000) if (arm := routes.arm(str(n))))
    assert sum(answered.values()) == 20_000
    assert all(abs(answered[d] / 20_000 - share) < 0.01 for d, share in shares.items())


def test_the_share_is_kept() -> None:
    hits = np.mean([digest(0.2, str(n)) == B for n in range(20_000)])
    assert abs(hits - 0.2) < 0.01


def test_the_shadow_never_answers() -> None:
    assert {digest(0.5, str(n)) for n in range(1000)} == {A, B}


def test_without_a_champion_nobody_answers() -> None:
    assert Routes("delay", []).arm("key") is None
