"""Speedup: dense time over pruned time, with raw samples and a confidence interval."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 4000
"""Enough for the bounds of the interval to vary by less than a tenth of its width between seeds."""

RESOLUTION = 1.1
"""If an interval contains 1 and its bounds differ by more than this ratio, it could hide a speedup of 5 % or more."""


class Conclusion(enum.StrEnum):
    """Conclusion from the interval of a speedup."""

    FASTER = "faster"
    SLOWER = "slower"
    NOT_SIGNIFICANT = "no significant speedup"
    """Any speedup is small."""
    TOO_NOISY = "too noisy to conclude"
    """The interval could hide a relevant speedup."""

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
        speedup: The dense median over the pruned one.
        interval: The bootstrap 95 % interval of the speedup.
        conclusion: Conclusion from the interval: if it contains 1, no difference is claimed; if it is also wide, the
            benchmark is too noisy to conclude.
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
        launches: int = 1,
        seed: int = 0,
        tokens: int | None = None,
    ) -> PhaseResult:
        """Compare two sets of samples; the arguments are those of `bootstrap_speedup` and `Timing.of`."""
        dense_timing, pruned_timing = (Timing.of(samples, tokens=tokens) for samples in (dense, pruned))
        interval = bootstrap_speedup(dense, pruned, launches=launches, seed=seed)
        return cls(
            dense=dense_timing,
            pruned=pruned_timing,
            speedup=dense_timing.median / pruned_timing.median,
            interval=interval,
            conclusion=conclude(interval),
        )


def bootstrap_speedup(
    dense: Sequence[Sequence[float]], pruned: Sequence[Sequence[float]], *, launches: int = 1, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap percentile interval of the ratio of medians (Efron and Tibshirani, 1993, chapter 13).

    Launches are resampled, and rounds within them, always with both graphs of a round. The samples of a round share the
    load of the machine, and the rounds of a launch share conditions that are fixed when a process starts, such as its
    memory layout. Resampling single samples would treat them as independent and give too narrow an interval.

    Args:
        dense: Seconds of the dense graph, [rounds, samples of a round].
        pruned: Seconds of the pruned graph, in the same shape.
        launches: Number of launches: the rounds are split into as many groups of consecutive rounds.
        seed: Seed of the resampling.

    Returns:
        The lower and the upper bound.
    """
    import numpy as np

    dense_lrs, pruned_lrs = (np.reshape(samples, (launches, -1, len(samples[0]))) for samples in (dense, pruned))
    rounds = dense_lrs.shape[1]
    generator = np.random.default_rng(seed)
    launch_nl = generator.integers(launches, size=(RESAMPLES, launches))
    round_nlr = generator.integers(rounds, size=(RESAMPLES, launches, rounds))
    drawn = launch_nl[:, :, np.newaxis], round_nlr
    speedups_n = np.median(dense_lrs[drawn], axis=(1, 2, 3)) / np.median(pruned_lrs[drawn], axis=(1, 2, 3))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(speedups_n, (tail, 1 - tail)).tolist()
    return low, high


def conclude(interval: tuple[float, float]) -> Conclusion:
    """Return the conclusion: faster or slower only if the whole interval lies on one side of 1."""
    low, high = interval
    if low > 1:
        return Conclusion.FASTER
    if high < 1:
        return Conclusion.SLOWER
    return Conclusion.TOO_NOISY if high > RESOLUTION * low else Conclusion.NOT_SIGNIFICANT
