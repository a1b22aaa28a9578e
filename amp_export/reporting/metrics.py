"""Numbers of a report that quality gates check: thresholds limit them, and baselines store them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from amp_export.benchmarking.statistics import PhaseResult
from amp_export.exporters.dispatch import exported_bytes
from amp_export.options import Phase
from amp_export.parity.extremes import largest, smallest
from amp_export.reporting.evaluations import accuracy_difference, perplexity_difference
from amp_export.reporting.report import Report


@dataclass(frozen=True)
class Value:
    """One number.

    Attributes:
        value: The number.
        interval: Its 95 % interval, if it is measured with noise.
    """

    value: float
    interval: tuple[float, float] | None = None


class Unit(enum.StrEnum):
    """The unit of a number: its format, and the suffixes that a threshold may have."""

    NONE = "none"
    BYTES = "bytes"
    SECONDS = "seconds"

    def show(self, value: float) -> str:
        """Return a number with its unit."""
        if self is Unit.BYTES:
            return f"{value / 1e6:.6g} MB"
        if self is Unit.SECONDS:
            return f"{value * 1e3:.4g} ms"
        return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"


Found = Mapping[str, Value]
"""Values by phase, or by the empty string if a metric has no phases."""


@dataclass(frozen=True)
class Metric:
    """One kind of number.

    Attributes:
        name: Its name in thresholds (after `max_` or `min_`) and in baselines.
        means: Its description.
        unit: Its unit.
        made_by: The command that measures it.
        read: Reads it from a report and the folder of the graph; returns no values if it was not measured.
        rises: Whether higher is better.
        tolerated: Share of its earlier value by which it may get worse before a baseline check fails; None if baselines
            leave it out, because it depends on the machine or another number says the same.
        least: Changes smaller than this are ignored.
        has_phases: Whether it is measured for each phase.
    """

    name: str
    means: str
    unit: Unit
    made_by: str
    read: Callable[[Report, Path | None], Found]
    rises: bool = False
    tolerated: float | None = None
    least: float = 0.0
    has_phases: bool = False

    @property
    def key(self) -> str:
        """Its name as a threshold."""
        return f"{'min' if self.rises else 'max'}_{self.name}"


def measure(report: Report, graph: Path | None) -> dict[str, Value]:
    """Return all numbers that were measured, by name, such as `size` and `speedup.decode`.

    Args:
        report: The report, which has most of them.
        graph: The folder of the graph, for the size of its files.
    """
    found: dict[str, Value] = {}
    for metric in METRICS:
        for phase, value in metric.read(report, graph).items():
            found[full_name(metric.name, phase)] = value
    return found


def full_name(name: str, phase: str) -> str:
    """Return the name of one number, with its phase if it has one."""
    return f"{name}.{phase}" if phase else name


def find_metric(name: str) -> Metric | None:
    """Return the metric of a number's full name, or None if there is no such metric or phase."""
    prefix, dot, phase = name.partition(".")
    metric = next((metric for metric in METRICS if metric.name == prefix), None)
    known = metric is not None and (phase in set(Phase) if metric.has_phases else not dot)
    return metric if known else None


def _alone(value: float | None) -> Found:
    return {} if value is None else {"": Value(value)}


def _over_cases(name: str, choose: Callable[[Iterable[float]], float]) -> Callable[[Report, Path | None], Found]:
    def read(report: Report, _: Path | None) -> Found:
        cases = [] if report.parity is None else report.parity.cases
        found = [value for case in cases if (value := getattr(case, name)) is not None]
        return _alone(choose(found) if found else None)

    return read


def _perplexity_ratio(report: Report, _: Path | None) -> Found:
    quality = report.quality
    return _alone(None if quality is None else quality.pruned / quality.dense)


def _quality(name: str) -> Callable[[Report, Path | None], Found]:
    return lambda report, _: _alone(None if report.quality is None else getattr(report.quality, name))


def _accuracy_loss(report: Report, _: Path | None) -> Found:
    found = (accuracy_difference(each) for each in (report.evaluations or {}).values())
    # in decimal, a loss of one point is not more than 1
    losses = [round(-100 * each.value, 9) for each in found if each is not None]
    return _alone(largest(losses) if losses else None)


def _text_perplexity_ratio(report: Report, _: Path | None) -> Found:
    found = (perplexity_difference(each) for each in (report.evaluations or {}).values())
    ratios = [each.ratio for each in found if each is not None]
    return _alone(largest(ratios) if ratios else None)


def _parameters(report: Report, _: Path | None) -> Found:
    return _alone(None if report.pruning is None else report.pruning.parameters_after)


def _size(_: Report, graph: Path | None) -> Found:
    return _alone(None if graph is None else exported_bytes(graph) or None)


def _peak_memory(report: Report, _: Path | None) -> Found:
    return _alone(None if report.benchmark is None else report.benchmark.pruned.peak_memory_bytes)


def _by_phase(value: Callable[[PhaseResult], Value]) -> Callable[[Report, Path | None], Found]:
    def read(report: Report, _: Path | None) -> Found:
        phases = {} if report.benchmark is None else report.benchmark.phases
        return {phase: value(result) for phase, result in phases.items()}

    return read


METRICS = (
    Metric(
        name="kl",
        means="largest mean KL divergence of a parity case, graph from checkpoint, in nats",
        unit=Unit.NONE,
        made_by="validate",
        read=_over_cases("kl", largest),
        # the divergence grows with the square of the error
        tolerated=15.0,
        # rounding in float64 can leave this much between equal float32 logits
        least=1e-9,
    ),
    Metric(
        name="error",
        means="largest absolute difference between graph and checkpoint",
        unit=Unit.NONE,
        made_by="validate",
        read=_over_cases("max_error", largest),
        # another runtime rounds differently: see NOISE_FACTOR in amp_export/parity/reference.py
        tolerated=3.0,
    ),
    Metric(
        name="top1_agreement",
        means="smallest top-1 agreement of a parity case",
        unit=Unit.NONE,
        made_by="validate",
        read=_over_cases("top1_agreement", smallest),
        rises=True,
    ),
    Metric(
        name="perplexity_ratio",
        means="perplexity of the pruned model over that of the dense one",
        unit=Unit.NONE,
        made_by="prune",
        read=_perplexity_ratio,
        tolerated=0.01,
    ),
    Metric(
        name="quality_kl",
        means="mean KL divergence of the pruned model from the dense one, in nats",
        unit=Unit.NONE,
        made_by="prune",
        read=_quality("kl"),
        tolerated=0.01,
        # rounding changes a tiny divergence by a larger share
        least=1e-6,
    ),
    Metric(
        name="quality_top1_agreement",
        means="share of tokens for which the pruned and the dense model have the same top-1 token",
        unit=Unit.NONE,
        made_by="prune",
        read=_quality("top1_agreement"),
        rises=True,
        tolerated=0.01,
    ),
    Metric(
        name="accuracy_loss",
        means="largest loss of the tasks' average accuracy of an evaluation, in percentage points",
        unit=Unit.NONE,
        made_by="evaluate",
        read=_accuracy_loss,
    ),
    Metric(
        name="text_perplexity_ratio",
        means="largest ratio of perplexities on the text of an evaluation, pruned over dense",
        unit=Unit.NONE,
        made_by="evaluate",
        read=_text_perplexity_ratio,
    ),
    Metric(
        name="parameters",
        means="parameters of the pruned model",
        unit=Unit.NONE,
        made_by="prune",
        read=_parameters,
        tolerated=0.0,
    ),
    Metric(
        name="size",
        means="size of graph and weights, or of the engine",
        unit=Unit.BYTES,
        made_by="export",
        read=_size,
        tolerated=0.0,
    ),
    Metric(
        name="peak_memory",
        means="peak memory of the process that ran the pruned graph",
        unit=Unit.BYTES,
        made_by="benchmark",
        read=_peak_memory,
        tolerated=0.1,
    ),
    Metric(
        name="speedup",
        means="dense time over pruned time",
        unit=Unit.NONE,
        made_by="benchmark",
        read=_by_phase(lambda result: Value(result.speedup, result.interval)),
        rises=True,
        tolerated=0.05,
        has_phases=True,
    ),
    Metric(
        name="latency",
        means="median time of the pruned graph",
        unit=Unit.SECONDS,
        made_by="benchmark",
        read=_by_phase(lambda result: Value(result.pruned.median)),
        has_phases=True,
    ),
)
"""All metrics."""
