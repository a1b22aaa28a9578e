"""Gain: dense time over pruned time, with the raw samples it comes from and an interval that says what it is worth."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Samples = np.ndarray[Any, np.dtype[np.float64]]

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
    def of(cls, dense: Sequence[Sequence[float]], pruned: Sequence[Sequence[float]], *, seed: int = 0) -> PhaseResult:
        """Compares two sets of samples [rounds, samples of a round], whose rounds ran in pairs."""
        dense_timing, pruned_timing = Timing.of(dense), Timing.of(pruned)
        interval = bootstrap_speedup(dense, pruned, seed=seed)
        return cls(
            dense=dense_timing,
            pruned=pruned_timing,
            speedup=dense_timing.median / pruned_timing.median,
            interval=interval,
            conclusion=conclude(interval),
        )


def bootstrap_speedup(
    dense: Sequence[Sequence[float]], pruned: Sequence[Sequence[float]], *, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the ratio of medians (Efron and Tibshirani, 1993, chapter 13).

    Whole rounds are drawn, and always both halves of a pair: the samples of a round, and the two graphs in it, share
    what else the machine was doing.

    Args:
        dense: Seconds of the dense graph, [rounds, samples of a round].
        pruned: Seconds of the pruned graph, alike.
        seed: The same seed gives the same interval.

    Returns:
        The lower and the upper end.
    """
    import numpy as np

    dense_rs, pruned_rs = np.asarray(dense), np.asarray(pruned)
    rounds = len(dense_rs)
    draws_nr = np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))
    speedups_n = _medians(dense_rs, draws_nr) / _medians(pruned_rs, draws_nr)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(speedups_n, (tail, 1 - tail)).tolist()
    return low, high


def _medians(samples_rs: Samples, draws_nr: np.ndarray[Any, np.dtype[np.int64]]) -> Samples:
    import numpy as np

    medians: Samples = np.median(samples_rs[draws_nr].reshape(len(draws_nr), -1), axis=1)
    return medians


def conclude(interval: tuple[float, float]) -> Conclusion:
    """Faster or slower only where the whole interval lies on one side of 1."""
    low, high = interval
    if low > 1:
        return Conclusion.FASTER
    return Conclusion.SLOWER if high < 1 else Conclusion.NOT_SIGNIFICANT
