"""The rounds of a benchmark: two models take turns, each in its own process.

The order of the models alternates between rounds, so that neither profits from the machine's state or drift. It also
alternates between launches: of two processes with the same graph, the one started first decoded 5 % slower in most
launches, regardless of the order within rounds. No outliers are removed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amp_export.benchmarking.processes import Worker, start_worker
from amp_export.benchmarking.sampling import Launches, Sampling, Stop
from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.statistics import launch_ratios
from amp_export.benchmarking.timing import Round, RoundTimes
from amp_export.benchmarking.worker import Ready
from amp_export.hardware.machine import read_bandwidth
from amp_export.options import Phase

WARM_UP_LIMIT = 8
"""Maximum number of warm-up rounds per launch; measuring then begins even if times have not settled."""

SETTLED = 0.05
"""Relative difference between the times of two rounds below which they are settled."""


@dataclass
class Record:
    """Records of one model.

    Attributes:
        folder: Folder of the model.
        ready: Report of each launch.
        times: Times of each round, by workload.
    """

    folder: Path
    ready: list[Ready] = field(default_factory=list)
    times: dict[int, list[RoundTimes]] = field(default_factory=dict)

    def samples(self, workload: int, phase: Phase) -> list[list[float]]:
        """Return the seconds of one phase in all rounds of a workload."""
        return [list(times.phases[phase]) for times in self.times[workload]]


@dataclass
class Measured:
    """Records of a benchmark.

    Attributes:
        records: Records of the two models.
        stop: Why no further launches were made.
        warm_up_rounds: Number of warm-up rounds, which are not counted.
        unsettled_launches: Number of launches whose times had not settled when the measurement began.
        bandwidth: Memory bandwidth, the median of the measurements after each launch; None on a GPU.
    """

    records: tuple[Record, Record]
    stop: Stop = Stop.FIXED
    warm_up_rounds: int = 0
    unsettled_launches: int = 0
    bandwidth: float | None = None

    @property
    def launches(self) -> int:
        """Number of launches."""
        return len(self.records[0].ready)

    def ratios(self, workload: int, phase: Phase) -> tuple[float, ...]:
        """Return the logarithmic ratios of the launches so far, in one phase of a workload."""
        first, second = (record.samples(workload, phase) for record in self.records)
        return launch_ratios(first, second, launches=self.launches)


def measure(
    first: Path,
    second: Path,
    tasks: Sequence[Round],
    setup: Setup,
    sampling: Sampling,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Run all tasks alternately on two models.

    Args:
        first: Folder of one model.
        second: Folder of the other model.
        tasks: The tasks that each model runs in every round.
        setup: Runtime and settings for both models.
        sampling: How much is measured.
        on_progress: Called with the numbers of finished and of all rounds.

    Raises:
        AmpExportError: A model cannot be loaded, or a process died.
    """
    records = Record(first), Record(second)
    measured = Measured(records)
    launches = Launches(sampling)
    bandwidths = []
    another = True
    while another:
        early, late = records if launches.done % 2 == 0 else reversed(records)
        with start_worker(early.folder, setup) as early_worker, start_worker(late.folder, setup) as late_worker:
            pair = (early, early_worker), (late, late_worker)
            for record, worker in pair:
                record.ready.append(worker.ready)
            _warm_up([early_worker, late_worker], tasks, measured)
            for number in range(sampling.rounds_of_launch):
                _run_round(pair if number % 2 == 0 else pair[::-1], tasks)
                if on_progress is not None:
                    done = launches.done * sampling.rounds_of_launch + number + 1
                    on_progress(done, launches.total * sampling.rounds_of_launch)
        # measured after each launch, because it varies with the load of the machine, like the rounds
        if early.ready[0].threads:
            bandwidths.append(read_bandwidth(early.ready[0].threads))
        another = launches.finish_one([measured.ratios(0, phase) for phase in records[0].times[0][0].phases])
    measured.stop = launches.stop or Stop.FIXED
    measured.bandwidth = statistics.median(bandwidths) if bandwidths else None
    return measured


def _run_round(pair: Sequence[tuple[Record, Worker]], tasks: Sequence[Round]) -> None:
    for number, task in enumerate(tasks):
        for record, worker in pair:
            record.times.setdefault(number, []).append(worker.time(task))


def _warm_up(workers: Sequence[Worker], tasks: Sequence[Round], measured: Measured) -> None:
    """Run rounds until both models take nearly the same time twice in a row, or `WARM_UP_LIMIT` is reached."""
    before: list[float] = []
    for _ in range(WARM_UP_LIMIT):
        now = [sum(worker.time(task).total for task in tasks) for worker in workers]
        measured.warm_up_rounds += 1
        if before and all(abs(new - old) < SETTLED * old for new, old in zip(now, before, strict=True)):
            return
        before = now
    measured.unsettled_launches += 1
