"""Comparison of several outputs with the first of them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from amp_export.benchmarking.statistics import PhaseResult
from amp_export.documents import to_json
from amp_export.errors import RequestError
from amp_export.outputs.manifest import Manifest
from amp_export.reporting.report import Report
from amp_export.reporting.wording import megabytes, milliseconds, timed

SCHEMA = 1


class Unit(enum.StrEnum):
    """Unit of a measure."""

    PARAMETERS = "parameters"
    PERPLEXITY = "perplexity"
    NATS = "nats"
    SHARE = "share of predicted tokens"
    ACCURACY = "share of questions"
    BYTES = "bytes"
    SECONDS = "seconds"
    SPEEDUP = "dense time over pruned time"

    def show(self, value: float) -> str:
        """Return a value with its unit."""
        shows: dict[Unit, Callable[[float], str]] = {
            Unit.PARAMETERS: lambda count: f"{count / 1e6:.1f} M",
            Unit.PERPLEXITY: lambda perplexity: f"{perplexity:.2f}",
            Unit.NATS: lambda divergence: f"{divergence:.3g}",
            Unit.SHARE: lambda share: f"{share:.1%}",
            Unit.ACCURACY: lambda share: f"{share:.1%}",
            Unit.BYTES: megabytes,
            Unit.SECONDS: milliseconds,
            Unit.SPEEDUP: lambda speedup: f"x {speedup:.2f}",
        }
        return shows[self](value)


@dataclass(frozen=True)
class Measure:
    """One number of every output.

    Attributes:
        label: Name of the measure.
        unit: Its unit.
        values: Value by output; None if it was not measured.
        intervals: 95 % interval by output; None if there is none.
        changes: Relative difference from the first output, by output; None for the first, and if a value is missing.
    """

    label: str
    unit: Unit
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    changes: tuple[float | None, ...]


@dataclass(frozen=True)
class Comparison:
    """Comparison of several outputs.

    Attributes:
        outputs: Their directories; the first is the baseline.
        models: Model that each was made from.
        parity: Whether parity holds, by output; None if it was not checked.
        measures: Measures that at least one output has.
        notes: Differences in setup that make numbers hard to compare.
        schema: Version of this format.
    """

    outputs: tuple[str, ...]
    models: tuple[str, ...]
    parity: tuple[bool | None, ...]
    measures: tuple[Measure, ...]
    notes: tuple[str, ...]
    schema: int = SCHEMA

    @property
    def holds(self) -> bool:
        """Whether parity holds in all outputs in which it was checked."""
        return False not in self.parity

    def to_json(self) -> str:
        """Return the comparison as JSON."""
        return to_json(self)


def compare_outputs(outputs: Sequence[Path], *, across_models: bool = False) -> Comparison:
    """Compare the reports of several outputs.

    Args:
        outputs: Two or more output directories; the first is the baseline.
        across_models: Whether the models may differ.

    Raises:
        RequestError: There are fewer than two outputs, or they are of different models.
        OutputError: A report is missing, damaged, or of another schema.
    """
    if len(outputs) < 2:
        raise RequestError(
            "A comparison needs two or more outputs, but one was given.\nName at least two; the first is the baseline."
        )
    manifests = [Manifest.load(output) for output in outputs]
    reports = [Report.load(output) for output in outputs]
    for output, manifest in zip(outputs, manifests, strict=True):
        manifest.verify(output)
    if not across_models:
        _check_models(outputs, manifests)
    return Comparison(
        outputs=tuple(map(str, outputs)),
        models=tuple(manifest.source.name for manifest in manifests),
        parity=tuple(_parity(report) for report in reports),
        measures=tuple(_measures(reports)),
        notes=tuple(_notes(reports)),
    )


def _check_models(outputs: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    first, baseline = outputs[0], manifests[0].source
    for output, manifest in zip(outputs, manifests, strict=True):
        if manifest.source.sha256 != baseline.sha256:
            raise RequestError(
                f"{first} was made of {baseline.name} (SHA-256 {baseline.sha256[:12]}), and {output} of "
                f"{manifest.source.name} (SHA-256 {manifest.source.sha256[:12]}): these are different models.\n"
                "Give --across-models to compare them all the same."
            )


def _parity(report: Report) -> bool | None:
    return report.holds if report.parity is not None or report.devices else None


def _measures(reports: Sequence[Report]) -> Iterator[Measure]:
    """Yield the measures that at least one report has."""
    ways: dict[str, tuple[Unit, Callable[[Report], float | None]]] = {
        "Parameters": (
            Unit.PARAMETERS,
            lambda report: None if report.pruning is None else report.pruning.parameters_after,
        ),
        "Perplexity": (Unit.PERPLEXITY, lambda report: None if report.quality is None else report.quality.pruned),
        "KL from dense, nats": (Unit.NATS, lambda report: None if report.quality is None else report.quality.kl),
        "Top-1 agreement with dense": (
            Unit.SHARE,
            lambda report: None if report.quality is None else report.quality.top1_agreement,
        ),
        "Size on disk": (
            Unit.BYTES,
            lambda report: None if report.benchmark is None else report.benchmark.pruned.bytes_on_disk,
        ),
        "Peak memory": (
            Unit.BYTES,
            lambda report: None if report.benchmark is None else report.benchmark.pruned.peak_memory_bytes,
        ),
    }
    for label, (unit, read) in ways.items():
        yield from _measure(label, unit, [read(report) for report in reports])
    for (label, unit), values in _evaluated(reports).items():
        yield from _measure(label, unit, values)
    for label, phases in _phases(reports).items():
        yield from _measure(
            f"{label}: median", Unit.SECONDS, [None if phase is None else phase.pruned.median for phase in phases]
        )
        intervals = [None if phase is None else phase.interval for phase in phases]
        yield from _measure(
            f"{label}: speedup",
            Unit.SPEEDUP,
            [None if phase is None else phase.speedup for phase in phases],
            intervals,
        )


def _evaluated(reports: Sequence[Report]) -> dict[tuple[str, Unit], list[float | None]]:
    """Return the results of each report's evaluation by label; averages of other tasks are another measure."""
    found: list[dict[tuple[str, Unit], float]] = []
    for model in (None if report.evaluation is None else report.evaluation.model for report in reports):
        values: dict[tuple[str, Unit], float] = {}
        found.append(values)
        if model is None:
            continue
        for name, task in model.tasks.items():
            values[f"Accuracy, {name}", Unit.ACCURACY] = task.accuracy.value
        if model.average is not None:
            values[f"Accuracy, average of {', '.join(model.tasks)}", Unit.ACCURACY] = model.average.value
        if model.perplexity is not None:
            values["Perplexity on the evaluated text", Unit.PERPLEXITY] = model.perplexity.perplexity
        for name, words in model.word_perplexities.items():
            values[f"Perplexity per word, {name}", Unit.PERPLEXITY] = words.perplexity
    keys = dict.fromkeys(key for values in found for key in values)
    return {key: [values.get(key) for values in found] for key in keys}


def _phases(reports: Sequence[Report]) -> dict[str, list[PhaseResult | None]]:
    """Return the results of each report by phase label; prompts of different lengths are different phases."""
    named = [
        {label: phase for label, _, phase in timed(benchmark)} if (benchmark := report.benchmark) is not None else {}
        for report in reports
    ]
    labels = dict.fromkeys(label for phases in named for label in phases)
    return {label: [phases.get(label) for phases in named] for label in labels}


def _measure(
    label: str,
    unit: Unit,
    values: Sequence[float | None],
    intervals: Sequence[tuple[float, float] | None] | None = None,
) -> Iterator[Measure]:
    if all(value is None for value in values):
        return
    baseline, *others = values
    changes = [None if value is None or not baseline else value / baseline - 1 for value in others]
    yield Measure(label, unit, tuple(values), tuple(intervals or [None] * len(values)), (None, *changes))


def _notes(reports: Sequence[Report]) -> Iterator[str]:
    """Yield differences in setup that make numbers hard to compare."""
    benchmarks = [report.benchmark for report in reports if report.benchmark is not None]
    for what, name in (("machines", "machine"), ("runtimes", "runtime"), ("numbers of threads", "threads")):
        if len(found := {str(getattr(benchmark, name)) for benchmark in benchmarks}) > 1:
            yield f"Times were measured with different {what}: {', '.join(sorted(found))}."
    if len(benchmarks) > 1:
        yield "Times are of separate runs; speedups were measured against the dense model within each run."
    qualities = [report.quality for report in reports if report.quality is not None]
    if len({(quality.text, f"{quality.dense:.4g}") for quality in qualities}) > 1:
        yield "Quality was measured on different texts or models."
    evaluations = [report.evaluation for report in reports if report.evaluation is not None]
    if len({(tuple(sorted(each.files.values())), each.limit) for each in evaluations}) > 1:
        yield "Evaluations are on different files, or on different numbers of their questions."
    if len(parts := {each.judged.part for each in evaluations}) > 1:
        yield f"Evaluations are of different parts: {', '.join(sorted(parts))}."
    parities = [report.parity for report in reports if report.parity is not None]
    if len(dtypes := {parity.dtype for parity in parities}) > 1:
        yield f"The graphs are of different dtypes: {', '.join(sorted(dtypes))}."
    if len(runtimes := {parity.runtime for parity in parities if parity.runtime is not None}) > 1:
        yield f"Parity was checked with different runtimes: {', '.join(sorted(runtimes))}."
