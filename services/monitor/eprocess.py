"""Sequential tests that may be looked at any time: betting e-processes on bounded means and on counts.

An e-process is the wealth of a bettor who starts with 1 and, while the null hypothesis holds, cannot gain on average;
by Ville's inequality it ever reaches 1 / alpha with a probability of alpha at most, however often it is looked at.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

Array = npt.NDArray[np.float64]
_MOST = 0.5
# How close to the asked share a broken split is imagined to lie: as if so many units had been seen.
_SPLIT_UNITS = 100.0
_RATES = np.geomspace(1.1, 10.0, 20)


def mean_above(values: Array, bound: float, *, least: float) -> float:
    """Return the e-value against "the mean is `bound` or less", values in their order of arrival, none below `least`.

    Bets by the approximate growth-rate-adaptive rule (Waudby-Smith and Ramdas 2024, section B.3): each bet depends on
    the values before it only. A bet never risks more than half of what the least value could take.
    """
    if not len(values):
        return 1.0
    gains = values - bound
    count = np.arange(1, len(gains) + 1)
    # A few imagined values of mean 0 keep the first bets small.
    before = np.concatenate([[0.0], np.cumsum(gains)[:-1]]) / count
    squares = (np.concatenate([[0.0], np.cumsum(gains**2)[:-1]]) + 0.25) / count
    bets = np.clip(before / squares, 0.0, _MOST / max(bound - least, 1e-12))
    return float(np.exp(min(np.sum(np.log1p(bets * gains)), 700.0)))


def mean_below(values: Array, bound: float, *, greatest: float) -> float:
    """Return the e-value against "the mean is `bound` or more"; see `mean_above`."""
    return mean_above(-values, -bound, least=-greatest)


def rate_above(candidate: int, champion: int, share: float) -> float:
    """Return the e-value against "the candidate fails no more often than the champion".

    `share` is the candidate's part of the units. A mixture over rate ratios from 1.1 to 10 (Lindon and Malek 2022): the
    counts alone decide, in whatever order and with whatever traffic they came.
    """
    theta = share * _RATES / (share * _RATES + 1 - share)
    wealth = candidate * np.log(theta / share) + champion * np.log((1 - theta) / (1 - share))
    return float(np.exp(np.minimum(wealth, 700.0)).mean())


def split_differs(candidate: int, champion: int, share: float) -> float:
    """Return the e-value against "each unit goes to the candidate with probability `share`".

    A sample-ratio mismatch shows broken routing. The alternative is a beta mixture around the share (Lindon and Malek
    2022, section 3), so that the split may be looked at after every unit.
    """
    if not 0 < share < 1:
        return 1.0
    a, b = _SPLIT_UNITS * share, _SPLIT_UNITS * (1 - share)
    wealth = betaln(a + candidate, b + champion) - betaln(a, b)
    wealth -= candidate * np.log(share) + champion * np.log1p(-share)
    return float(np.exp(min(wealth, 700.0)))
