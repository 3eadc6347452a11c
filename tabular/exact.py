"""Sum doubles with about twice their precision, vectorised.

A value is kept as an unevaluated sum of two doubles (high, low). After Dekker, "A floating-point technique for
extending the available precision" (1971), and Ogita, Rump and Oishi, "Accurate sum and dot product" (2005). Results do
not depend on the platform, as they would with the 80-bit numbers of some.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
_SPLITTER = 134217729.0  # 2**27 + 1: cuts a 53-bit significand in two halves


class Pair(NamedTuple):
    """High and low parts of values; the low part is below half a unit in the last place of the high one."""

    high: Doubles
    low: Doubles


def pick(a: Pair, index: npt.NDArray[np.int64]) -> Pair:
    """Take elements of both parts."""
    return Pair(a.high[index], a.low[index])


def two_sum(a: Doubles, b: Doubles) -> Pair:
    """Add; the low part is the exact rounding error (Knuth)."""
    total = a + b
    part = total - a
    return Pair(total, (a - (total - part)) + (b - part))


def two_product(a: Doubles, b: Doubles) -> Pair:
    """Multiply; the low part is the exact rounding error (Dekker, Veltkamp). Factors must stay below 1e300."""
    product = a * b
    a_high = _SPLITTER * a
    a_high = a_high - (a_high - a)
    b_high = _SPLITTER * b
    b_high = b_high - (b_high - b)
    a_low, b_low = a - a_high, b - b_high
    return Pair(product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low)


def prefix(high: Doubles, low: Doubles | None = None) -> Pair:
    """Sum from the left: element i holds the sum of the first i values, so there is one more element than values."""
    sums = np.zeros(len(high) + 1)
    np.cumsum(
        high, out=sums[1:]
    )  # numpy accumulates in order, so each step's rounding error can be computed afterwards
    errors = two_sum(sums[:-1], high).low
    if low is not None:
        errors = errors + low
    lows = np.zeros(len(high) + 1)
    np.cumsum(errors, out=lows[1:])
    return Pair(sums, lows)


def subtract(a: Pair, b: Pair) -> Pair:
    """Subtract pairs."""
    high, error = two_sum(a.high, -b.high)
    return _normal(high, error + (a.low - b.low))


def square(a: Pair) -> Pair:
    """Square a pair."""
    high, error = two_product(a.high, a.high)
    return _normal(high, error + 2.0 * a.high * a.low)


def divide(a: Pair, b: Doubles) -> Pair:
    """Divide a pair by doubles other than 0."""
    quotient = a.high / b
    product = two_product(quotient, b)
    return _normal(quotient, ((a.high - product.high) - product.low + a.low) / b)


def _normal(high: Doubles, low: Doubles) -> Pair:
    total = high + low
    return Pair(total, low - (total - high))
