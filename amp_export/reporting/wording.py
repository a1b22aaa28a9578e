"""Names and numbers in reports, the same in every format."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from amp_export.benchmarking.device_results import DeviceBenchmark
from amp_export.benchmarking.results import BenchmarkReport, SweepPoint
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.options import Phase
from amp_export.parity.results import CaseResult, Explanation

PARITY_NOT_CHECKED = "Parity is not checked; amp-export validate OUT checks it"

AnyBenchmark = BenchmarkReport | DeviceBenchmark

WorkloadResult = AnyBenchmark | SweepPoint

Each_co = TypeVar("Each_co", covariant=True)


class Pair(Protocol[Each_co]):
    """What there is of the dense model and of the pruned one."""

    @property
    def dense(self) -> Each_co:
        """Of the dense model."""

    @property
    def pruned(self) -> Each_co:
        """Of the pruned model."""


def both(pair: Pair[Each_co]) -> tuple[tuple[str, Each_co], tuple[str, Each_co]]:
    """Return the two of a pair, each with the name of its model."""
    return ("dense", pair.dense), ("pruned", pair.pruned)


def case_name(case: CaseResult) -> str:
    """Return a parity case, and which output it is of where a model returns something else than logits."""
    return case.name if case.output == "logits" else f"{case.name}, {case.output}"


def worst_error(cases: Sequence[CaseResult]) -> float:
    """Return the largest error of all cases; one that is not a number is larger than any."""
    errors = [case.max_error for case in cases]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def by_graph(explanation: Explanation) -> Iterator[Explanation]:
    """Yield an explanation in parts, one per graph: layers of two graphs have the same numbers."""
    first = explanation.first
    for graph in dict.fromkeys(point.graph for point in explanation.points):
        points = tuple(point for point in explanation.points if point.graph == graph)
        yield replace(explanation, points=points, first=first if first in points else None)


def explanation_title(part: Explanation) -> str:
    """Return what a part of an explanation is of."""
    return f"Intermediate values of {part.points[0].graph}, case: {part.case}"


def count_failed(cases: Sequence[CaseResult]) -> tuple[int, int]:
    """Return how many cases fail, and how many there are; the outputs of one case are one."""
    failed = {case.name for case in cases if not case.holds}
    return len(failed), len({case.name for case in cases})


def in_how_many(failed: int, total: int, what: str = "cases") -> str:
    """Return in how many something fails or, where it fails in none, holds: in 1 of 3 cases."""
    return f"in {failed or total} of {total} {what}"


def holds_in_how_many(failed: int, total: int) -> str:
    """Return the same with what it does: holds in 3 of 3 cases, or FAILS in 1 of 3 cases."""
    return f"{'FAILS' if failed else 'holds'} {in_how_many(failed, total)}"


def phase_label(phase: Phase, point: WorkloadResult, lead: WorkloadResult | None = None) -> str:
    """Return a phase and what it is of: an image or audio has no tokens.

    Args:
        phase: Its name.
        point: Of which workload.
        lead: The workload that leads: other workloads name their number of decoded tokens if it differs.
    """
    prompt_tokens, batch_size = point.prompt_tokens, point.batch_size
    if phase is Phase.DECODE:
        label = f"Decode after {prompt_tokens}" if prompt_tokens else "Decode"
        label += f", batch of {batch_size}" if batch_size > 1 else ""
    elif prompt_tokens:
        label = f"{phase.capitalize()}, {f'{batch_size} x ' if batch_size > 1 else ''}{prompt_tokens} tokens"
    else:
        label = f"{phase.capitalize()}, {f'{batch_size} samples' if batch_size > 1 else 'one sample'}"
    written = point.decode_tokens
    return label if lead is None or written == lead.decode_tokens else f"{label}, {written} written"


def timed(benchmark: AnyBenchmark) -> Iterator[tuple[str, Phase, PhaseResult]]:
    """Yield every phase of every workload of a benchmark: its label, its name, and its times."""
    sweep = benchmark.sweep if isinstance(benchmark, BenchmarkReport) else ()
    for point in (benchmark, *sweep):
        for phase, result in point.phases.items():
            yield phase_label(phase, point, benchmark), phase, result


def claimed_speedup(result: PhaseResult) -> str:
    """Return a speedup where it can be claimed, and why not where it cannot."""
    return f"x {result.speedup:.2f}" if result.conclusion.is_significant else result.conclusion.value


def speedup_with_interval(result: PhaseResult) -> str:
    """Return the same with its interval."""
    low, high = result.interval
    return f"{claimed_speedup(result)} [{low:.2f}, {high:.2f}]"


def change(before: float, after: float) -> str:
    """Return by what share something grew or shrank."""
    return f"{(after - before) / before:+.1%}" if before else ""


def megabytes(count: float) -> str:
    """Return a size."""
    return f"{count / 1e6:.0f} MB"


def milliseconds(seconds: float) -> str:
    """Return a time."""
    return f"{seconds * 1e3:.1f} ms"


def joules(energy: float) -> str:
    """Return an energy."""
    return f"{energy:.3g} J"
