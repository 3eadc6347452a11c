"""Which arm answers: a stable hash of the key, so that one key stays on one arm while its share only grows."""

import hashlib
import itertools
from collections.abc import Sequence

from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole


class Routes:
    """The arms of one generation, by the share of keys that each answers.

    In the order of their digests the first challenger takes an interval from 0 upwards, the others intervals from 1
    downwards, the champion what is left between. So of two challengers neither takes keys from the other when it grows;
    of three or more that cannot be had without a memory: who comes third gives way where the second grows. The salt is
    made of the endpoint and the challengers, so that a new release meets other keys first, and shares may change
    without moving anyone but those they must.
    """

    def __init__(self, endpoint: str, arms: Sequence[Arm]) -> None:
        challengers = sorted(
            (arm for arm in arms if arm.role == ArmRole.ARM_ROLE_CHALLENGER), key=lambda arm: arm.bundle_digest
        )
        self.champion = next((arm for arm in arms if arm.role == ArmRole.ARM_ROLE_CHAMPION), None)
        self._salt = "\0".join([endpoint, *(arm.bundle_digest for arm in challengers)])
        ends = list(itertools.accumulate(arm.share for arm in challengers[1:]))
        self._intervals = [(0.0, arm.share, arm) for arm in challengers[:1]]
        for arm, start, end in zip(challengers[1:], [0.0, *ends], ends, strict=False):
            self._intervals.append((1 - end, 1 - start, arm))

    def arm(self, key: str) -> Arm | None:
        """Return the arm for a key; None without a champion."""
        if not self._intervals:
            return self.champion
        place = bucket(self._salt, key)
        return next((arm for low, high, arm in self._intervals if low <= place < high), self.champion)


def bucket(salt: str, key: str) -> float:
    """Return a number in [0, 1) that depends on salt and key alone: the first 8 bytes of their SHA-256 over 2^64."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
