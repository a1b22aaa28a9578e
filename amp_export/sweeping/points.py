"""A point: a criterion and a ratio, and what was measured of the model that they give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from amp_export.benchmarking.drafting.results import read_measurement
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.options import CriterionName, Phase
from amp_export.reporting.report import Report


@dataclass(frozen=True)
class Point:
    """A plan that is asked for.

    Attributes:
        criterion: The criterion of importance.
        asked: The ratio.
    """

    criterion: CriterionName
    asked: float

    @property
    def name(self) -> str:
        """Name of its output directory."""
        return f"{self.criterion}-{self.asked}"


@dataclass(frozen=True)
class PointResult:
    """A point and its numbers.

    Attributes:
        point: What was asked for.
        numbers: The numbers of the pruned model, by the names of `MEASURES`; one that was not measured is missing.
        dense: The dense model's numbers, times those measured beside the pruned model's.
        machine: The machine that times were measured on; None without times.
    """

    point: Point
    numbers: Mapping[str, float]
    dense: Mapping[str, float]
    machine: str | None = None

    @property
    def name(self) -> str:
        """Name of its output directory."""
        return self.point.name

    @property
    def ratio(self) -> float:
        """Share of all parameters that was removed."""
        return self.numbers["ratio"]

    @property
    def loss(self) -> float:
        """Perplexity; infinity if it was not measured."""
        perplexity = self.numbers.get("perplexity", math.nan)
        return math.inf if math.isnan(perplexity) else perplexity

    def times_dense(self, name: str) -> float:
        """Return a number as a multiple of the dense model's; NaN if it was not measured."""
        return self.numbers.get(name, math.nan) / (self.dense.get(name) or math.nan)


def read_point(output: Path, point: Point, runtime: str | None) -> PointResult:
    """Read the numbers of a point from its report.

    Args:
        output: The directory that its output directory is in.
        point: The point.
        runtime: Name of the benchmark; None if nothing is timed.

    Raises:
        OutputError: There is no report.
    """
    report = Report.load(output / point.name)
    benchmark = None if runtime is None else (report.benchmarks or {}).get(runtime)
    pairs = {name: pair for name, *pair in (*_pairs(report, benchmark), *_draft_pairs(output / point.name))}
    numbers = {name: float(pruned) for name, (pruned, _) in pairs.items()}
    dense = {name: float(dense) for name, (_, dense) in pairs.items()}
    return PointResult(point, numbers, dense, None if benchmark is None else str(benchmark.machine))


def _pairs(report: Report, benchmark: BenchmarkReport | None) -> Iterator[tuple[str, float, float]]:
    """Yield name, the pruned model's number and the dense model's of all that was measured."""
    if (pruning := report.pruning) is not None:
        yield "ratio", pruning.achieved, 0.0
        yield "parameters", pruning.parameters_after, pruning.parameters_before
    if (quality := report.quality) is not None:
        yield "perplexity", quality.pruned, quality.dense
        if quality.kl is not None and quality.top1_agreement is not None:
            yield "kl", quality.kl, 0.0
            yield "top1_agreement", quality.top1_agreement, 1.0
    if benchmark is not None:
        yield "size_mb", benchmark.pruned.bytes_on_disk / 1e6, benchmark.dense.bytes_on_disk / 1e6
        for phase, result in benchmark.phases.items():
            # the first phase of any kind of model is one call over the whole input
            name = "decode_ms" if phase is Phase.DECODE else "prefill_ms"
            yield name, result.pruned.median * 1e3, result.dense.median * 1e3


def _draft_pairs(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield the same of what was measured of the pruned model as a draft, of which the dense model is the measure."""
    if (measured := read_measurement(folder)) is not None:
        yield "draft_accepted", measured.acceptance, 1.0
        yield "draft_speedup", measured.speedup, 1.0
        yield "draft_speedup_low", measured.interval[0], 1.0
