"""Two models, a process each, that take turns: the rounds of a benchmark.

The rounds alternate in order, the first model first and then the second, so that neither profits from the machine's
state or drift. So do the launches: of two processes with the same graph, the one that was started first decoded 5 %
slower in most launches, however the turns were ordered. Nothing that was measured is removed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amp_export.benchmarking.processes import Worker, start_worker
from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.timing import Round, RoundTimes
from amp_export.benchmarking.worker import Ready
from amp_export.hardware.machine import read_bandwidth
from amp_export.options import Phase

WARM_UP_LIMIT = 8
"""Rounds of a launch after which measuring begins, settled or not."""

SETTLED = 0.05
"""Two rounds whose times differ by less than this share are settled."""


@dataclass
class Record:
    """What is noted of a model while rounds are run.

    Attributes:
        folder: The model.
        ready: What each launch reported.
        times: By workload what each round took.
    """

    folder: Path
    ready: list[Ready] = field(default_factory=list)
    times: dict[int, list[RoundTimes]] = field(default_factory=dict)

    def samples(self, workload: int, phase: Phase) -> list[list[float]]:
        """Return seconds of all rounds of a workload, in one phase."""
        return [list(times.phases[phase]) for times in self.times[workload]]


@dataclass
class Measured:
    """All that was noted.

    Attributes:
        records: Of the two models.
        rounds: How many rounds were measured.
        warm_up_rounds: How many went before, and are not counted.
        unsettled_launches: In how many launches their times had not settled when measuring began.
        bandwidth: The memory's, the median of what was found after each launch; None where a GPU computes.
    """

    records: tuple[Record, Record]
    rounds: int
    warm_up_rounds: int = 0
    unsettled_launches: int = 0
    bandwidth: float | None = None


def measure(
    first: Path,
    second: Path,
    tasks: Sequence[Round],
    setup: Setup,
    *,
    rounds: int,
    launches: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Run all tasks in turns on two models.

    Args:
        first: A model.
        second: The other.
        tasks: What each runs in every round.
        setup: How both are run.
        rounds: How many rounds to measure, rounded up to a multiple of `launches`.
        launches: How often to start both processes; an even number, so that each is the first as often.
        on_progress: Called with the number of rounds done and of all.

    Raises:
        AmpExportError: A model cannot be loaded, or a process died.
    """
    rounds_of_launch = math.ceil(rounds / launches)
    records = Record(first), Record(second)
    measured = Measured(records, rounds=launches * rounds_of_launch)
    bandwidths = []
    for launch in range(launches):
        early, late = records if launch % 2 == 0 else reversed(records)
        with start_worker(early.folder, setup) as early_worker, start_worker(late.folder, setup) as late_worker:
            pair = (early, early_worker), (late, late_worker)
            for record, worker in pair:
                record.ready.append(worker.ready)
            _warm_up([early_worker, late_worker], tasks, measured)
            for number in range(rounds_of_launch):
                _run_round(pair if number % 2 == 0 else pair[::-1], tasks)
                if on_progress is not None:
                    on_progress(launch * rounds_of_launch + number + 1, measured.rounds)
        # measured in between, because it changes with what else the machine does, as the rounds do
        if early.ready[0].threads:
            bandwidths.append(read_bandwidth(early.ready[0].threads))
    measured.bandwidth = statistics.median(bandwidths) if bandwidths else None
    return measured


def _run_round(pair: Sequence[tuple[Record, Worker]], tasks: Sequence[Round]) -> None:
    for number, task in enumerate(tasks):
        for record, worker in pair:
            record.times.setdefault(number, []).append(worker.time(task))


def _warm_up(workers: Sequence[Worker], tasks: Sequence[Round], measured: Measured) -> None:
    """Run rounds until both models take the same time for all tasks twice in a row."""
    before: list[float] = []
    for _ in range(WARM_UP_LIMIT):
        now = [sum(worker.time(task).total for task in tasks) for worker in workers]
        measured.warm_up_rounds += 1
        if before and all(abs(new - old) < SETTLED * old for new, old in zip(now, before, strict=True)):
            return
        before = now
    measured.unsettled_launches += 1
