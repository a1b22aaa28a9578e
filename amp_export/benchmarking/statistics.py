"""Speedup: dense time over pruned time, with its raw samples and an interval."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 4000
"""Enough for the ends of the interval to move by less than a tenth of its width from seed to seed."""

RESOLUTION = 1.1
"""An interval that contains 1 and whose ends are further apart than this ratio could hide a speedup of 5 % or more."""


class Conclusion(enum.StrEnum):
    """What an interval says about a speedup."""

    FASTER = "faster"
    SLOWER = "slower"
    NOT_SIGNIFICANT = "no significant speedup"
    """Whatever there is, it is small."""
    TOO_NOISY = "too noisy to conclude"
    """It could hide a speedup that matters."""

    @property
    def is_significant(self) -> bool:
        """Whether one is faster than the other."""
        return self in (Conclusion.FASTER, Conclusion.SLOWER)


@dataclass(frozen=True)
class Timing:
    """How long one phase took one graph.

    Attributes:
        samples: Raw seconds, for each round one or more.
        median: Over all samples of all rounds, in seconds; so are the percentiles.
        p90: The 90th percentile.
        p99: The 99th percentile.
        variation: The coefficient of variation: their standard deviation over their mean.
        tokens_per_second: Tokens that are read or written in the median time; None where there are no tokens.
    """

    samples: tuple[tuple[float, ...], ...]
    median: float
    p90: float
    p99: float
    variation: float
    tokens_per_second: float | None = None

    @classmethod
    def of(cls, samples: Sequence[Sequence[float]], *, tokens: int | None = None) -> Timing:
        """Derive the statistics; percentiles lie between samples by linear interpolation.

        Args:
            samples: Seconds, [rounds, samples of a round].
            tokens: Tokens of one sample.
        """
        import numpy as np

        seconds_rs = np.asarray(samples)
        median, p90, p99 = np.quantile(seconds_rs, (0.5, 0.9, 0.99)).tolist()
        # with a single sample nothing is known of how much others would differ
        variation = float(seconds_rs.std(ddof=1) / seconds_rs.mean()) if seconds_rs.size > 1 else 0.0
        rows = tuple(tuple(round_samples) for round_samples in samples)
        return cls(rows, median, p90, p99, variation, tokens / median if tokens else None)


@dataclass(frozen=True)
class PhaseResult:
    """Dense against pruned in one phase.

    Attributes:
        dense: The dense graph.
        pruned: The pruned one.
        speedup: The dense median over the pruned one.
        interval: The bootstrap 95 % interval of the speedup.
        conclusion: What the interval supports: no difference is claimed if it contains 1; if it is also wide, not even
            the absence of one.
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
    """Return the percentile interval of the ratio of medians (Efron and Tibshirani, 1993, chapter 13).

    Launches are drawn, and rounds within them, and always both halves of a pair. The samples of a round, and the two
    graphs in it, share what else the machine was doing; the rounds of a launch share what the processes were given when
    they started, such as where their memory lies. Drawing single samples would take them for independent, and promise
    too narrow an interval.

    Args:
        dense: Seconds of the dense graph, [rounds, samples of a round].
        pruned: Seconds of the pruned graph, alike.
        launches: How often the processes were started anew: so many groups of consecutive rounds, all of one size.
        seed: The same seed gives the same interval.

    Returns:
        The lower and the upper end.
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
    """Return faster or slower only where the whole interval lies on one side of 1."""
    low, high = interval
    if low > 1:
        return Conclusion.FASTER
    if high < 1:
        return Conclusion.SLOWER
    return Conclusion.TOO_NOISY if high > RESOLUTION * low else Conclusion.NOT_SIGNIFICANT
