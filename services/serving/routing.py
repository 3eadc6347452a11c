"""Which arm answers: a stable hash of the key, so that one key stays on one arm while its share only grows."""

import hashlib
import itertools
from collections.abc import Sequence

from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole


class Routes:
    """The arms of one generation, by the share of keys that each answers.

    Challengers take the intervals from 0 upwards in the order of their digests, the champion the rest. The salt is made
    of the endpoint and the challengers, so that a new release meets other keys first, and shares may change without
    moving anyone but those they must.
    """

    def __init__(self, endpoint: str, arms: Sequence[Arm]) -> None:
        challengers = sorted(
            (arm for arm in arms if arm.role == ArmRole.ARM_ROLE_CHALLENGER), key=lambda arm: arm.bundle_digest
        )
        self.champion = next((arm for arm in arms if arm.role == ArmRole.ARM_ROLE_CHAMPION), None)
        self._salt = "\0".join([endpoint, *(arm.bundle_digest for arm in challengers)])
        self._bounds = list(zip(itertools.accumulate(arm.share for arm in challengers), challengers, strict=True))

    def arm(self, key: str) -> Arm | None:
        """Return the arm for a key; None without a champion."""
        if not self._bounds:
            return self.champion
        place = bucket(self._salt, key)
        return next((arm for bound, arm in self._bounds if place < bound), self.champion)


def bucket(salt: str, key: str) -> float:
    """Return a number in [0, 1) that depends on salt and key alone: the first 8 bytes of their SHA-256 over 2^64."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
