"""Speedup: dense time over pruned time, with raw samples and a confidence interval."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from amp_export.evaluation.estimates import t_quantile
from amp_export.verb_options import BenchmarkOptions

MIN_EFFECT = BenchmarkOptions.min_effect
"""Smallest relative speedup that matters, by default."""


class Conclusion(enum.StrEnum):
    """Conclusion from the interval of a speedup."""

    FASTER = "faster"
    SLOWER = "slower"
    NEGLIGIBLE = "too small to matter"
    """The whole interval lies within the smallest relevant effect."""
    TOO_NOISY = "too noisy to conclude"
    """The interval contains 1, and could hide a relevant speedup."""
    NOT_SIGNIFICANT = "no significant speedup"
    """Of reports up to version 0.2: the interval contains 1 and is narrow."""

    @property
    def is_significant(self) -> bool:
        """Whether one graph is significantly faster than the other."""
        return self in (Conclusion.FASTER, Conclusion.SLOWER)


@dataclass(frozen=True)
class Timing:
    """Times of one phase of one graph.

    Attributes:
        samples: Raw samples in seconds, one or more per round.
        median: Median over all samples of all rounds, in seconds.
        p90: The 90th percentile, in seconds.
        p99: The 99th percentile, in seconds.
        variation: Coefficient of variation: the standard deviation over the mean.
        tokens_per_second: Tokens per sample over the median time; None if there are no tokens.
    """

    samples: tuple[tuple[float, ...], ...]
    median: float
    p90: float
    p99: float
    variation: float
    tokens_per_second: float | None = None

    @classmethod
    def of(cls, samples: Sequence[Sequence[float]], *, tokens: int | None = None) -> Timing:
        """Compute the statistics; percentiles are interpolated linearly.

        Args:
            samples: Seconds, [rounds, samples of a round].
            tokens: Number of tokens per sample.
        """
        import numpy as np

        seconds_rs = np.asarray(samples)
        median, p90, p99 = np.quantile(seconds_rs, (0.5, 0.9, 0.99)).tolist()
        # the variation of a single sample is not known
        variation = float(seconds_rs.std(ddof=1) / seconds_rs.mean()) if seconds_rs.size > 1 else 0.0
        rows = tuple(tuple(round_samples) for round_samples in samples)
        return cls(rows, median, p90, p99, variation, tokens / median if tokens else None)


@dataclass(frozen=True)
class PhaseResult:
    """Comparison of dense and pruned graph in one phase.

    Attributes:
        dense: Times of the dense graph.
        pruned: Times of the pruned graph.
        speedup: The dense median over the pruned one in each launch, and the geometric mean of all launches.
        interval: The 95 % confidence interval of the speedup, from `speedup_interval`.
        conclusion: Conclusion from the interval.
    """

    dense: Timing
    pruned: Timing
    speedup: float
    interval: tuple[float, float]
    conclusion: Conclusion

    @classmethod
    def of(
        cls,
        dense: Sequence[Sequence[float]],
        pruned: Sequence[Sequence[float]],
        *,
        launches: int,
        pilot_launches: int | None = None,
        min_effect: float = MIN_EFFECT,
        tokens: int | None = None,
    ) -> PhaseResult:
        """Compare two sets of samples.

        Args:
            dense: Seconds of the dense graph, [rounds, samples of a round].
            pruned: Seconds of the pruned graph, in the same shape.
            launches: Number of launches: the rounds are split into as many groups of consecutive rounds.
            pilot_launches: See `speedup_interval`.
            min_effect: Smallest relative speedup that matters.
            tokens: Number of tokens per sample.
        """
        dense_timing, pruned_timing = (Timing.of(samples, tokens=tokens) for samples in (dense, pruned))
        ratios = launch_ratios(dense, pruned, launches=launches)
        interval = speedup_interval(ratios, pilot_launches=pilot_launches)
        return cls(
            dense=dense_timing,
            pruned=pruned_timing,
            speedup=math.exp(math.fsum(ratios) / len(ratios)),
            interval=interval,
            conclusion=conclude(interval, min_effect=min_effect),
        )


def launch_ratios(
    dense: Sequence[Sequence[float]], pruned: Sequence[Sequence[float]], *, launches: int
) -> tuple[float, ...]:
    """Return, for each launch, the logarithm of the ratio of the two graphs' median times.

    The samples of a launch share conditions that are fixed when a process starts, such as its memory layout, so that
    they are not independent of one another. Launches are.

    Args:
        dense: Seconds of the dense graph, [rounds, samples of a round].
        pruned: Seconds of the pruned graph, in the same shape.
        launches: Number of launches: the rounds are split into as many groups of consecutive rounds.
    """
    import numpy as np

    medians = (np.median(np.reshape(samples, (launches, -1)), axis=1) for samples in (dense, pruned))
    dense_l, pruned_l = medians
    return tuple((np.log(dense_l) - np.log(pruned_l)).tolist())


def speedup_interval(ratios: Sequence[float], *, pilot_launches: int | None = None) -> tuple[float, float]:
    """Return the 95 % confidence interval of a speedup: a paired t interval on the launches' logarithmic ratios.

    If the pilot launches decided how many others followed, only they estimate the spread, and the coverage is exact
    (Stein, A two-sample test for a linear hypothesis whose power is independent of the variance, Annals of Mathematical
    Statistics 16, 1945). An estimate from all launches would be too small, because a small spread ends the launches.

    Args:
        ratios: Logarithmic ratios, from `launch_ratios`.
        pilot_launches: Number of launches that were planned from the beginning; by default all.

    Returns:
        The lower and the upper bound; 0 and infinity for a single launch, which says nothing about others.
    """
    pilot = ratios[: pilot_launches or len(ratios)]
    if len(pilot) < 2:
        return 0.0, math.inf
    mean = math.fsum(ratios) / len(ratios)
    half = t_quantile(len(pilot) - 1) * statistics.stdev(pilot) / math.sqrt(len(ratios))
    return math.exp(mean - half), math.exp(mean + half)


def launches_needed(ratios: Sequence[float], *, min_effect: float) -> int:
    """Return the number of launches after which the interval extends to either side by at most the smallest effect.

    Args:
        ratios: Logarithmic ratios of the pilot launches.
        min_effect: Smallest relative speedup that matters.
    """
    spread = t_quantile(len(ratios) - 1) * statistics.stdev(ratios) / math.log1p(min_effect)
    return max(len(ratios), math.ceil(spread**2))


def conclude(interval: tuple[float, float], *, min_effect: float = MIN_EFFECT) -> Conclusion:
    """Return the conclusion: faster or slower only if the whole interval lies on one side of 1, and is relevant."""
    low, high = interval
    if 1 / (1 + min_effect) <= low and high <= 1 + min_effect:
        return Conclusion.NEGLIGIBLE
    if low > 1:
        return Conclusion.FASTER
    return Conclusion.SLOWER if high < 1 else Conclusion.TOO_NOISY
