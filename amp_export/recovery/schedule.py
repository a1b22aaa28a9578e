"""How long training goes on, with which learning rate, and on which windows: all of it follows from the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

WARM_UP_STEPS = 10
"""Steps over which the learning rate rises, or a tenth of all steps if that is fewer."""


@dataclass(frozen=True)
class Limits:
    """When training ends: with the limit that is reached first.

    Attributes:
        steps: Number of steps, or None.
        seconds: Seconds, or None.
    """

    steps: int | None
    seconds: float | None

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the training that is done, 1 at the end.

        Args:
            step: Number of steps taken.
            seconds: Seconds since the first.
        """
        by_steps = step / self.steps if self.steps is not None else 0.0
        by_time = seconds / self.seconds if self.seconds is not None else 0.0
        return min(max(by_steps, by_time), 1.0)


def learning_rate(peak: float, limits: Limits, *, step: int, progress: float) -> float:
    """Return the learning rate of a step: a linear warm-up, and a cosine that ends at 0.

    Source of the cosine: Loshchilov and Hutter, SGDR, arXiv 1608.03983, equation 5, with one period.

    Args:
        peak: The largest learning rate.
        limits: When training ends.
        step: Number of steps taken before.
        progress: Share of the training that is done.
    """
    warm_up = WARM_UP_STEPS if limits.steps is None else max(min(WARM_UP_STEPS, limits.steps // 10), 1)
    return peak * min((step + 1) / warm_up, 1.0) * (1 + math.cos(math.pi * progress)) / 2


def windows_of(step: int, *, count: int, per_step: int, seed: int) -> list[int]:
    """Return the numbers of the windows that a step trains on: each epoch has all of them once, in an order of its own.

    Args:
        step: Number of steps taken before.
        count: Number of windows.
        per_step: Windows of a step.
        seed: Seed of the orders.
    """
    import numpy as np

    drawn = range(step * per_step, (step + 1) * per_step)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in {draw // count for draw in drawn}
    }
    return [int(orders[draw // count][draw % count]) for draw in drawn]
