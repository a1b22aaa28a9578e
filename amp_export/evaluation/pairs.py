"""Paired differences between two models that were measured on the same items."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from amp_export.evaluation.estimates import LARGEST_EXPONENT, Estimate, t_quantile


class Change(enum.StrEnum):
    """Conclusion from the interval of a difference."""

    HIGHER = "higher"
    LOWER = "lower"
    NONE = "none"
    """The interval contains zero."""


@dataclass(frozen=True)
class Difference:
    """A model's mean less that of the model it is compared with.

    Attributes:
        value: The difference.
        interval: Its 95 % confidence interval; infinite if there are fewer than two pairs.
        change: Conclusion from the interval.
        pairs: Number of items that both models were measured on.
    """

    value: float
    interval: tuple[float, float]
    change: Change
    pairs: int

    @classmethod
    def within(cls, value: float, interval: tuple[float, float], pairs: int) -> Difference:
        """Draw the conclusion from an interval."""
        low, high = interval
        change = Change.HIGHER if low > 0 else Change.LOWER if high < 0 else Change.NONE
        return cls(value, interval, change, pairs)


@dataclass(frozen=True)
class AccuracyDifference:
    """Difference of two accuracies.

    Attributes:
        difference: The difference.
        gained: Items that only this model answers correctly, or for which it gets more points.
        lost: Items that only the other model answers correctly, or for which it gets more points.
    """

    difference: Difference
    gained: int
    lost: int


@dataclass(frozen=True)
class PerplexityDifference:
    """Difference of two perplexities of one text.

    Attributes:
        difference: Difference of the mean negative log-likelihoods, in nats per token.
        ratio: The ratio of the perplexities, which is its exponential.
        interval: The ratio's 95 % confidence interval.
    """

    difference: Difference
    ratio: float
    interval: tuple[float, float]


def mean_difference(
    values: Sequence[float], others: Sequence[float], weights: Sequence[float] | None = None
) -> Difference:
    """Return the difference of two means with its paired t interval.

    Args:
        values: Sums of one model, by item.
        others: Sums of the other model, of the same items.
        weights: The items' weights, such as the number of terms of each sum; by default 1.
    """
    found = Estimate.of_ratio(
        [one - other for one, other in zip(values, others, strict=True)], weights or [1.0] * len(values)
    )
    return Difference.within(found.value, _interval(found, found.count - 1), found.count)


def accuracy_difference(correct: Sequence[bool | float], other: Sequence[bool | float]) -> AccuracyDifference:
    """Return the difference of two accuracies, with a t interval on the items' differences.

    Two items are added for the interval, one gained and one lost. It then covers as it should also where few items
    differ, and a handful of items that all differ in the same way proves nothing (Bonett and Price, Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data, Journal of Educational and
    Behavioral Statistics 37, 2012). Points between 0 and 1 differ by more amounts than one, so that nothing is added.

    Args:
        correct: Whether this model answers each item correctly, or its points.
        other: Whether the other model does.
    """
    changes = [float(one) - float(two) for one, two in zip(correct, other, strict=True)]
    gained, lost = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    if not {0.0, 1.0}.issuperset(map(float, (*correct, *other))):
        return AccuracyDifference(mean_difference(correct, other), gained, lost)
    widened = Estimate.of([*changes, 1.0, -1.0])
    low, high = _interval(widened, widened.count - 1)
    difference = Difference.within(math.fsum(changes) / len(changes), (max(low, -1.0), min(high, 1.0)), len(changes))
    return AccuracyDifference(difference, gained, lost)


def average_difference(differences: Sequence[Difference]) -> Difference:
    """Return the mean of differences on independent sets of items, each of which counts the same.

    Args:
        differences: The differences, at least one.
    """
    count = len(differences)
    value, middle = (
        math.fsum(each) / count
        for each in zip(*((each.value, sum(each.interval) / 2) for each in differences), strict=True)
    )
    # half widths of the intervals are multiples of standard errors, which add in squares
    half = (
        math.sqrt(math.fsum(((high - low) / 2) ** 2 for low, high in (each.interval for each in differences))) / count
    )
    interval = (-math.inf, math.inf) if math.isinf(half) else (middle - half, middle + half)
    return Difference.within(value, interval, sum(each.pairs for each in differences))


def perplexity_difference(
    losses: Sequence[float], others: Sequence[float], tokens: Sequence[int]
) -> PerplexityDifference:
    """Return the difference of two perplexities, with a paired t interval over windows.

    Args:
        losses: Negative log-likelihood of each window in nats.
        others: The other model's.
        tokens: Number of tokens scored in each window.
    """
    difference = mean_difference(losses, others, tokens)
    low, high = (exponential(bound) for bound in difference.interval)
    return PerplexityDifference(difference, exponential(difference.value), (low, high))


def exponential(value: float) -> float:
    """Return the exponential; infinity where it overflows."""
    return math.inf if value > LARGEST_EXPONENT else math.exp(value)


def _interval(found: Estimate, degrees_of_freedom: int) -> tuple[float, float]:
    if found.stderr is None:
        return -math.inf, math.inf
    half = t_quantile(degrees_of_freedom) * found.stderr
    return found.value - half, found.value + half
