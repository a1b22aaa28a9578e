"""Names and numbers in reports, the same in every format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from amp_export.benchmarking.device_results import DeviceBenchmark
from amp_export.benchmarking.results import BenchmarkReport, SweepPoint
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.options import Phase
from amp_export.parity.extremes import largest
from amp_export.parity.results import CaseResult, Explanation

PARITY_NOT_CHECKED = "Parity is not checked; amp-export validate OUT checks it"

AnyBenchmark = BenchmarkReport | DeviceBenchmark

WorkloadResult = AnyBenchmark | SweepPoint

Each_co = TypeVar("Each_co", covariant=True)


class Pair(Protocol[Each_co]):
    """A value for the dense model and one for the pruned model."""

    @property
    def dense(self) -> Each_co:
        """Value for the dense model."""

    @property
    def pruned(self) -> Each_co:
        """Value for the pruned model."""


def both(pair: Pair[Each_co]) -> tuple[tuple[str, Each_co], tuple[str, Each_co]]:
    """Return both values of a pair, each with the name of its model."""
    return ("dense", pair.dense), ("pruned", pair.pruned)


def case_name(case: CaseResult) -> str:
    """Return the name of a parity case, with the name of the output if that is not logits."""
    return case.name if case.output == "logits" else f"{case.name}, {case.output}"


def worst_error(cases: Sequence[CaseResult]) -> float:
    """Return the largest error of all cases; NaN counts as the largest."""
    return largest(case.max_error for case in cases)


def by_graph(explanation: Explanation) -> Iterator[Explanation]:
    """Yield an explanation in parts, one per graph: layers of two graphs have the same numbers."""
    first = explanation.first
    for graph in dict.fromkeys(point.graph for point in explanation.points):
        points = tuple(point for point in explanation.points if point.graph == graph)
        yield replace(explanation, points=points, first=first if first in points else None)


def explanation_title(part: Explanation) -> str:
    """Return the title of a part of an explanation."""
    return f"Intermediate values of {part.points[0].graph}, case: {part.case}"


def count_failed(cases: Sequence[CaseResult]) -> tuple[int, int]:
    """Return the number of cases that fail, and of all cases; several outputs of a case count as one."""
    failed = {case.name for case in cases if not case.holds}
    return len(failed), len({case.name for case in cases})


def in_how_many(failed: int, total: int, what: str = "cases") -> str:
    """Return the number of failures or, if there are none, of successes: `in 1 of 3 cases`."""
    return f"in {failed or total} of {total} {what}"


def holds_in_how_many(failed: int, total: int) -> str:
    """Return the verdict with this number: `holds in 3 of 3 cases`, or `FAILS in 1 of 3 cases`."""
    return f"{'FAILS' if failed else 'holds'} {in_how_many(failed, total)}"


def phase_label(phase: Phase, point: WorkloadResult, lead: WorkloadResult | None = None) -> str:
    """Return a phase with its workload; images and audio have no tokens.

    Args:
        phase: Name of the phase.
        point: Its workload.
        lead: The primary workload; others name their number of decoded tokens if it differs.
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
    """Yield the label, the name and the times of every phase of every workload of a benchmark."""
    sweep = benchmark.sweep if isinstance(benchmark, BenchmarkReport) else ()
    for point in (benchmark, *sweep):
        for phase, result in point.phases.items():
            yield phase_label(phase, point, benchmark), phase, result


def claimed_speedup(result: PhaseResult) -> str:
    """Return the speedup if it is significant, otherwise the conclusion."""
    return f"x {result.speedup:.2f}" if result.conclusion.is_significant else result.conclusion.value


def speedup_with_interval(result: PhaseResult) -> str:
    """Return the speedup or the conclusion, with the interval of the speedup."""
    low, high = result.interval
    return f"{claimed_speedup(result)} [{low:.2f}, {high:.2f}]"


def change(before: float, after: float) -> str:
    """Return the relative change in percent, or from ten times on as a factor, which fits where a phone shows it."""
    if not before:
        return ""
    return f"{(after - before) / before:+.1%}" if after < 10 * before else f"x {after / before:.3g}"


def megabytes(count: float) -> str:
    """Return a size in megabytes."""
    return f"{count / 1e6:.0f} MB"


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds."""
    return f"{seconds * 1e3:.1f} ms"


def joules(energy: float) -> str:
    """Return an energy in joules."""
    return f"{energy:.3g} J"
