"""Times of two models in one runtime, in turns in one process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.on_gpu.rows import Times

from amp_export.benchmarking.roofline import StepBytes, step_bytes
from amp_export.benchmarking.runners import load
from amp_export.benchmarking.runners.base import Runner
from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.benchmarking.timing import Clock, Round, RoundTimes, time_round
from amp_export.benchmarking.worker import choose_clock
from amp_export.benchmarking.workloads import DECODE_TOKENS, Workload
from amp_export.checkpoints.reading import read_config
from amp_export.options import Dtype, Format, Phase

MOST_ROUNDS, FEWEST_ROUNDS, WARM_UP_ROUNDS = 10, 3, 2


@dataclass(frozen=True)
class Pair:
    """Two models and how they are run.

    Attributes:
        shape: Name of their shape.
        runtime: Name of the runtime, for the page.
        folders: What the runtime loads, first and second.
        names: Their names.
        setup: Runtime and settings.
    """

    shape: str
    runtime: str
    folders: tuple[Path, Path]
    names: tuple[str, str]
    setup: Setup


def workloads(batches: Sequence[int], prompts: Sequence[int]) -> list[Workload]:
    """Return all workloads, short prompts first: if time runs out, each batch size was measured."""
    return [Workload(batch, prompt, DECODE_TOKENS) for prompt in prompts for batch in batches]


def compare(pair: Pair, works: Sequence[Workload], *, seconds: float) -> Iterator[Times]:
    """Yield the times of each workload as soon as they are known.

    Args:
        pair: The models.
        works: The workloads.
        seconds: Time for the rounds of one workload, after which no round is added.
    """
    runners = [load(folder, pair.setup) for folder in pair.folders]
    clock = choose_clock(runners[0], pair.setup)
    configs = [read_config(folder) for folder in pair.folders]
    vocab_size = min(int(raw["vocab_size"]) for raw, _ in configs)
    read = [_step_bytes(folder, works, pair.setup) for folder in pair.folders]
    for number, work in enumerate(works):
        rounds = _measure(runners, Round(work, vocab_size, 0), clock, seconds)
        before, after = (each[number] for each in read)
        allowed = before.total / after.total if before is not None and after is not None else None
        for phase in rounds[0][0].phases:
            first, second = ([list(both[which].phases[phase]) for both in rounds] for which in range(2))
            # one process measures all rounds, so that the rounds are the only repetitions
            result = PhaseResult.of(first, second, launches=len(rounds))
            yield Times(
                pair.shape,
                pair.runtime,
                *pair.names,
                batch=work.batch_size,
                prompt=work.prompt_tokens,
                phase=phase.value,
                milliseconds=(result.dense.median * 1e3, result.pruned.median * 1e3),
                speedup=result.speedup,
                interval=result.interval,
                rounds=len(rounds),
                allowed=allowed if phase is Phase.DECODE else None,
            )


def _measure(runners: Sequence[Runner], task: Round, clock: Clock, seconds: float) -> list[tuple[RoundTimes, ...]]:
    """Return the times of both models in each round, of which the first are left out."""
    found: list[tuple[RoundTimes, ...]] = []
    started = time.monotonic()
    while len(found) < WARM_UP_ROUNDS + MOST_ROUNDS:
        order = (0, 1) if len(found) % 2 == 0 else (1, 0)
        times = {which: time_round(runners[which], task, clock) for which in order}
        found.append((times[0], times[1]))
        if len(found) >= WARM_UP_ROUNDS + FEWEST_ROUNDS and time.monotonic() - started > seconds:
            break
    return found[WARM_UP_ROUNDS:]


def _step_bytes(folder: Path, works: Sequence[Workload], setup: Setup) -> Sequence[StepBytes | None]:
    graph = folder / "model.onnx" if setup.format is Format.ONNX else None
    return step_bytes(folder, works, dtype=Dtype.FLOAT16, graph=graph)
