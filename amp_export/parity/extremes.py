"""Maximum and minimum of numbers that may be NaN; those of Python depend on the order of the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable


def largest(values: Iterable[float]) -> float:
    """Return the maximum, or NaN if one value is NaN."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found)


def smallest(values: Iterable[float]) -> float:
    """Return the minimum, or NaN if one value is NaN."""
    return -largest(-value for value in values)
