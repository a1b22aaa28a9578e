"""Benchmark of the dense and the pruned graph on this device: two processes take turns, in the same thermal state.

The order of the turns alternates, and so does the order of the launches, so that drift favors neither graph.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, Iterator

import numpy as np

from .bundle import SUBJECTS
from .files import available_memory, gigabytes
from .power import Power
from .processes import Setup, Worker, start_worker

LAUNCHES = 4
"""Number of launches of both processes, if there are as many rounds: an even number, so that each is first equally
often."""

WARM_UP_LIMIT = 4
"""Largest number of warm-up rounds of a launch, even if the times have not settled."""

SETTLED = 0.05
"""The times have settled if those of two rounds differ by less than this share."""

PHASES = ("prefill", "decode")

BY_ROUND, BY_LAUNCH = "by round", "by launch"
"""How the graphs alternate: by round if both fit into memory, otherwise by launch."""

Round = Any
"""Result of a round: see `worker.time_round`."""


def measure(setup: Setup, verified: dict[str, Any], power: Power | None, *, rounds: int) -> dict[str, Any]:
    """Measure both graphs.

    Args:
        setup: How the graphs are run.
        verified: Result of `verify`, whose peak memory decides whether both graphs fit.
        power: Sampler of the device's power, or None.
        rounds: Number of rounds to measure, rounded up to a multiple of the launches.

    Returns:
        The report's section `benchmark`.
    """
    task = setup.bundle.manifest["measure"]
    together = _fit_together(verified)
    found: dict[str, list[Round]] = {subject: [] for subject in SUBJECTS}
    ready: dict[str, list[dict[str, Any]]] = {subject: [] for subject in SUBJECTS}
    launches = LAUNCHES if rounds >= LAUNCHES else 2
    rounds_of_launch = math.ceil(rounds / launches)
    warm_up_rounds = 0
    for launch in range(launches):
        order = SUBJECTS if launch % 2 == 0 else SUBJECTS[::-1]
        for group in [order] if together else [(subject,) for subject in order]:
            with contextlib.ExitStack() as stack:
                workers = [stack.enter_context(start_worker(setup, subject)) for subject in group]
                for worker in workers:
                    ready[worker.subject].append(worker.ready)
                warm_up_rounds += _warm_up(workers, task)
                for number in range(rounds_of_launch):
                    for worker in workers if number % 2 == 0 else workers[::-1]:
                        found[worker.subject].append(worker.ask(task))
        print(f"Measured {(launch + 1) * rounds_of_launch} of {launches * rounds_of_launch} rounds.", flush=True)
    result: dict[str, Any] = {
        subject: _describe(setup, subject, found[subject], ready[subject], verified, power) for subject in SUBJECTS
    }
    result["phases"] = {
        phase: {subject: _times(found[subject], phase, task) for subject in SUBJECTS} for phase in PHASES
    }
    return {
        **result,
        "rounds": launches * rounds_of_launch,
        "launches": launches,
        "warm_up_rounds": warm_up_rounds,
        "interleaved": BY_ROUND if together else BY_LAUNCH,
        "prompt_tokens": task["prompt_tokens"],
        "decode_tokens": task["decode_tokens"],
        "seed": task["seed"],
        "threads": setup.threads,
    }


def _fit_together(verified: dict[str, Any]) -> bool:
    """Return whether both processes fit into the available memory; each ran alone during verification."""
    available = available_memory()
    needed = sum(verified[subject]["peak_memory_bytes"] for subject in SUBJECTS)
    if available is None or needed <= available:
        return True
    print(
        f"Both graphs together need {gigabytes(needed)}, but {gigabytes(available)} are available: they are measured "
        "one at a time, alternating by launch.",
        flush=True,
    )
    return False


def _warm_up(workers: list[Worker], task: dict[str, Any]) -> int:
    """Run rounds until the times of all graphs have settled, and return the number of rounds."""
    before: list[float] = []
    for number in range(1, WARM_UP_LIMIT + 1):
        now = [float(sum(map(sum, worker.ask(task)["phases"].values()))) for worker in workers]
        if before and all(abs(new - old) < SETTLED * old for new, old in zip(now, before)):
            return number
        before = now
    return WARM_UP_LIMIT


def _describe(
    setup: Setup,
    subject: str,
    rounds: list[Round],
    ready: list[dict[str, Any]],
    verified: dict[str, Any],
    power: Power | None,
) -> dict[str, Any]:
    engine = setup.bundle.work / f"{subject}.engine"
    used = setup.runtime == "tensorrt"
    watts = power.mean_watts(_spans(rounds, "decode")) if power is not None else None
    decode_seconds = [sum(each["phases"]["decode"]) for each in rounds]
    tokens = len(rounds) * setup.bundle.manifest["measure"]["decode_tokens"]
    return {
        "bytes_on_disk": engine.stat().st_size if used else setup.bundle.weight_bytes(subject),
        "peak_memory_bytes": max(each["peak_memory_bytes"] for each in rounds),
        # measured during verification, because here both graphs may be on the GPU
        "gpu_memory_bytes": verified[subject]["gpu_memory_bytes"],
        "load_seconds": float(np.median([each["load_seconds"] for each in ready])),
        "decode_watts": watts,
        "joules_per_decoded_token": None if watts is None else watts * sum(decode_seconds) / tokens,
    }


def _spans(rounds: list[Round], phase: str) -> Iterator[tuple[float, float]]:
    for each in rounds:
        began, ended = each["spans"][phase]
        yield began, ended


def _times(rounds: list[Round], phase: str, task: dict[str, Any]) -> dict[str, Any]:
    samples = [each["phases"][phase] for each in rounds]
    median, p90, p99 = np.quantile(np.asarray(samples), (0.5, 0.9, 0.99)).tolist()
    tokens = task["prompt_tokens"] if phase == "prefill" else 1
    return {"samples": samples, "median": median, "p90": p90, "p99": p99, "tokens_per_second": tokens / median}
