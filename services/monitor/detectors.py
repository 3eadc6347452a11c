"""Detectors over scipy: for whoever cannot take alibi-detect's licence."""

import importlib.util

import numpy as np
import scipy
from scipy.stats import chi2_contingency, ks_2samp

from services.monitor.drift import Detector, Numbers, Texts


class ScipyDetector:
    """Kolmogorov-Smirnov and chi-squared tests of scipy."""

    def __init__(self) -> None:
        self.name = f"scipy {scipy.__version__}"

    def numeric(self, reference: Numbers, current: Numbers) -> tuple[float, float]:
        """Test two samples of numbers."""
        result = ks_2samp(reference, current)
        return float(result.statistic), float(result.pvalue)

    def categorical(self, reference: Texts, current: Texts) -> tuple[float, float]:
        """Test two samples of categories."""
        names, codes = np.unique(np.concatenate([reference, current]).astype(str), return_inverse=True)
        counts = [
            np.bincount(part, minlength=len(names)) for part in (codes[: len(reference)], codes[len(reference) :])
        ]
        result = chi2_contingency(np.stack(counts))
        return float(result.statistic), float(result.pvalue)


def detector(choice: str) -> Detector:
    """Return the detector of a setting: `alibi`, `scipy`, or `auto`, which is alibi-detect where it is installed.

    The import of alibi-detect takes seconds: call this in a thread.
    """
    if choice == "scipy" or (choice == "auto" and importlib.util.find_spec("alibi_detect") is None):
        return ScipyDetector()
    from services.monitor.detectors_alibi import AlibiDetector

    return AlibiDetector()
