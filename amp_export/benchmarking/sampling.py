"""How often a benchmark starts its processes: until the interval of the speedup is narrow enough."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from amp_export.benchmarking.statistics import MIN_EFFECT, launches_needed
from amp_export.errors import RequestError
from amp_export.verb_options import BenchmarkOptions

PILOT_LAUNCHES = 6
"""Launches whose spread decides how many others follow; even, so that each model is started first equally often."""

MOST_LAUNCHES = 24


class Stop(enum.StrEnum):
    """Why no further launches were made."""

    NARROW = "the interval is narrow enough"
    TIME_LIMIT = "the time limit was reached"
    LAUNCH_LIMIT = "the most launches were made"
    FIXED = "the number of launches was given"


@dataclass(frozen=True)
class Sampling:
    """How much is measured.

    Attributes:
        rounds: Rounds of all pilot launches, rounded up to a multiple of their number; others have as many each. With
            fewer rounds than pilot launches, there are as many launches as rounds, and at least two.
        launches: Number of times that both processes are started; by default, as many as `min_effect` needs.
        min_effect: Smallest relative speedup that matters: launches go on until the interval is that narrow.
        time_limit: Seconds after which no launch is added to the pilot launches.
        seed: Seed of the prompt's tokens.
    """

    rounds: int = BenchmarkOptions.rounds
    launches: int | None = None
    min_effect: float = MIN_EFFECT
    time_limit: float = BenchmarkOptions.time_limit
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            RequestError: A number is out of range.
        """
        if min(self.rounds, self.pilot_launches) < 1:
            raise RequestError(
                f"{self.rounds} rounds in {self.pilot_launches} launches: there must be at least one of each."
            )
        if not 0 < self.min_effect < math.inf:
            raise RequestError(
                f"--min-effect is {self.min_effect:g}, but must be above 0.\nGive the smallest relative speedup that "
                "matters, such as 0.05 for 5 %."
            )

    @property
    def pilot_launches(self) -> int:
        """Number of launches that are made in any case."""
        if self.launches is not None:
            return self.launches
        return min(PILOT_LAUNCHES, max(2, self.rounds - self.rounds % 2))

    @property
    def rounds_of_launch(self) -> int:
        """Number of rounds of one launch."""
        return math.ceil(self.rounds / self.pilot_launches)


class Launches:
    """Decides, after each launch, whether another follows."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._needed = self.total = sampling.pilot_launches
        self._started = time.monotonic()
        self.done = 0
        self.stop = Stop.FIXED if sampling.launches is not None else None

    def finish_one(self, ratios: Sequence[Sequence[float]]) -> bool:
        """Count a launch, and return whether another follows.

        Args:
            ratios: For each phase, the logarithmic ratios of the launches so far.
        """
        self.done += 1
        pilot = self._sampling.pilot_launches
        if self.done < pilot or self.stop is Stop.FIXED:
            return self.done < self.total
        if self.done == pilot:
            # the spread of the pilot launches alone decides; see `speedup_interval`
            needed = max(launches_needed(each, min_effect=self._sampling.min_effect) for each in ratios)
            self._needed = needed + needed % 2
            self.total = min(self._needed, MOST_LAUNCHES)
        self.stop = self._why_to_stop()
        return self.stop is None

    def _why_to_stop(self) -> Stop | None:
        if self.done >= self._needed:
            return Stop.NARROW
        if self.done >= MOST_LAUNCHES:
            return Stop.LAUNCH_LIMIT
        # each model is to be started first equally often
        is_late = time.monotonic() - self._started > self._sampling.time_limit
        return Stop.TIME_LIMIT if is_late and self.done % 2 == 0 else None
