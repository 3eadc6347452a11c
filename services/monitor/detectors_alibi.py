"""Detectors over alibi-detect (Business Source License 1.1): the one module that imports it."""

import alibi_detect
import numpy as np
from alibi_detect.cd import ChiSquareDrift, KSDrift

from services.monitor.drift import Numbers, Texts


class AlibiDetector:
    """alibi-detect's univariate detectors; the correction for many columns is made over all of them by the caller."""

    def __init__(self) -> None:
        self.name = f"alibi-detect {alibi_detect.__version__}"

    def numeric(self, reference: Numbers, current: Numbers) -> tuple[float, float]:
        """Test two samples of numbers."""
        found = KSDrift(reference.reshape(-1, 1)).predict(current.reshape(-1, 1), drift_type="feature")["data"]
        return float(found["distance"][0]), float(found["p_val"][0])

    def categorical(self, reference: Texts, current: Texts) -> tuple[float, float]:
        """Test two samples of categories."""
        names, codes = np.unique(np.concatenate([reference, current]).astype(str), return_inverse=True)
        before, after = codes[: len(reference)].reshape(-1, 1), codes[len(reference) :].reshape(-1, 1)
        test = ChiSquareDrift(before, categories_per_feature={0: list(range(len(names)))})
        found = test.predict(after, drift_type="feature")["data"]
        return float(found["distance"][0]), float(found["p_val"][0])
