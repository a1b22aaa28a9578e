"""Gain: dense time over pruned time, with the raw samples it comes from and an interval that says what it is worth."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 4000
"""Enough for the ends of the interval to move by less than a tenth of its width from seed to seed."""


class Conclusion(enum.StrEnum):
    """What can be said of a gain."""

    FASTER = "faster"
    SLOWER = "slower"
    NOT_SIGNIFICANT = "no significant gain"


@dataclass(frozen=True)
class Timing:
    """How long one phase took one graph.

    Attributes:
        samples: Raw seconds, for each round one or more.
        median: Over all samples of all rounds, in seconds; so are the percentiles.
        p90: The 90th percentile.
        p99: The 99th percentile.
    """

    samples: tuple[tuple[float, ...], ...]
    median: float
    p90: float
    p99: float

    @classmethod
    def of(cls, samples: Sequence[Sequence[float]]) -> Timing:
        """Derives the statistics; percentiles lie between samples by linear interpolation."""
        import numpy as np

        median, p90, p99 = np.quantile(np.asarray(samples), (0.5, 0.9, 0.99)).tolist()
        return cls(tuple(tuple(round_samples) for round_samples in samples), median, p90, p99)


@dataclass(frozen=True)
class PhaseResult:
    """Dense against pruned in one phase.

    Attributes:
        dense: The dense graph.
        pruned: The pruned one.
        speedup: The dense median over the pruned one.
        interval: The bootstrap 95 % interval of the speed-up.
        conclusion: What the interval says: nothing is claimed where it holds 1.
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
    ) -> PhaseResult:
        """Compares two sets of samples; the arguments are those of `bootstrap_speedup`."""
        dense_timing, pruned_timing = Timing.of(dense), Timing.of(pruned)
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
    """The percentile interval of the ratio of medians (Efron and Tibshirani, 1993, chapter 13).

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
    """Faster or slower only where the whole interval lies on one side of 1."""
    low, high = interval
    if low > 1:
        return Conclusion.FASTER
    return Conclusion.SLOWER if high < 1 else Conclusion.NOT_SIGNIFICANT
