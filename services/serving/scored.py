"""Rows as an arm has scored them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lineal.api.registry.v1.endpoint_pb2 import Arm
from services.serving.lookups import LookedUp
from tabular.scorer import Scorer, Scores
from tabular.vectors import Vectors


@dataclass(frozen=True)
class Scored:
    """Rows with the scores that an arm gives them, and how they were looked up; `scorer` is the arm's.

    `taken` is what transforms of the feature set were computed from.
    """

    arm: Arm
    scorer: Scorer
    vectors: Vectors
    scores: Scores
    looked_up: LookedUp
    taken: Mapping[str, npt.NDArray[Any]]
    features_micros: int
    score_micros: int

    def raw_of(self, decisions: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return one raw score per row: of several classes that of the one decided for."""
        raw = self.scores.raw
        return raw if raw.ndim == 1 else raw[np.arange(len(raw)), decisions]
