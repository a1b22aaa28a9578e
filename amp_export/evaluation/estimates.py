"""Means with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95

LARGEST_EXPONENT = 700.0
"""Beyond it, exponentials overflow."""


@dataclass(frozen=True)
class Estimate:
    """A mean.

    Attributes:
        value: The mean.
        stderr: Its standard error; None if there is a single observation.
        count: Number of observations.
    """

    value: float
    stderr: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Compute the mean of independent observations.

        The standard error is that of `mean_stderr` in api/metrics.py of lm-eval 0.4.13: it divides by one less than
        their number.

        Args:
            values: The observations, at least one.
        """
        return cls.of_ratio(values, [1.0] * len(values))

    @classmethod
    def of_ratio(cls, sums: Sequence[float], weights: Sequence[float]) -> Estimate:
        """Compute a mean over observations of unlike weight, such as over the tokens of windows.

        The standard error is the ratio estimator's (Cochran, Sampling Techniques, 3rd edition, section 6.4).

        Args:
            sums: The sum of each observation.
            weights: Its weight, such as the number of terms of the sum; all above 0.
        """
        count, total = len(sums), math.fsum(weights)
        mean = math.fsum(sums) / total
        if count < 2:
            return cls(mean, None, count)
        squares = math.fsum((each - mean * weight) ** 2 for each, weight in zip(sums, weights, strict=True))
        return cls(mean, math.sqrt(squares * count / (count - 1)) / total, count)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates, each of which counts the same.

    Args:
        estimates: The estimates, at least one.
    """
    value = math.fsum(each.value for each in estimates) / len(estimates)
    errors = [each.stderr for each in estimates]
    known = [error for error in errors if error is not None]
    stderr = None if len(known) < len(errors) else math.sqrt(math.fsum(error**2 for error in known)) / len(errors)
    return Estimate(value, stderr, sum(each.count for each in estimates))


def t_quantile(degrees_of_freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2))
