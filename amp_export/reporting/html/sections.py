"""Sections of the page, one for each part of the report, including those not measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from amp_export.architectures import PrunedUnit
from amp_export.benchmarking.device_results import DeviceReport
from amp_export.evaluation.summaries import EvaluationSummary
from amp_export.outputs.manifest import Manifest
from amp_export.parity.results import CaseResult, ParityReport
from amp_export.reporting.benchmarks import gpu_line
from amp_export.reporting.checks import Check
from amp_export.reporting.evaluations import FLOOR, compared_rows, evaluation_lines
from amp_export.reporting.html.benchmark_plots import sizes_picture
from amp_export.reporting.html.benchmark_sections import (
    latency_pictures,
    latency_section,
    latency_table,
    memory_section,
    memory_table,
    roofline_section,
    runtimes_section,
)
from amp_export.reporting.html.elements import PageSection, Table
from amp_export.reporting.html.layer_plots import heads_picture, kept_picture, neurons_picture, shown_units
from amp_export.reporting.html.parity_plots import explanation_picture, parity_picture
from amp_export.reporting.layers import LayerCounts, layer_counts, read_importance
from amp_export.reporting.report import Report
from amp_export.reporting.reproduce import commands
from amp_export.reporting.summary import defaults_line, explanation_line, greedy_line, reload_line, rounded_line
from amp_export.reporting.wording import by_graph, case_name

HEADINGS = {
    PrunedUnit.QUERY_HEADS: "query heads",
    PrunedUnit.KEY_VALUE_HEADS: "key/value heads",
    PrunedUnit.NEURONS: "neurons",
}

FOLDED_ROWS = 12
"""A table of layers with more rows is collapsed at first."""


def page_sections(report: Report, manifest: Manifest, output: Path) -> Iterator[PageSection]:
    """Yield all sections in the order of the page."""
    yield removed_section(report, manifest, output)
    yield parity_section(report.parity)
    if report.checks:
        yield checks_section(report.checks)
    if report.evaluations:
        yield evaluation_section(report.evaluations)
    yield latency_section(report.benchmark)
    yield memory_section(report.benchmark)
    yield roofline_section(report.benchmark)
    if len(report.benchmarks or {}) > 1:
        yield runtimes_section(report.benchmarks or {})
    for number, (name, device) in enumerate((report.devices or {}).items()):
        yield device_section(f"device-{number}", name, device)
    yield provenance_section(report, manifest)


def removed_section(report: Report, manifest: Manifest, output: Path) -> PageSection:
    """Return the section on removed heads and neurons."""
    anchor, heading = "removed", "What was removed"
    if (pruning := report.pruning) is None:
        return PageSection(anchor, heading, ("Nothing was pruned: the model was exported as it is.",))
    layers = layer_counts(pruning, manifest)
    pictures = [kept_picture(layers)]
    lines = [f"{what.capitalize()}: {reason}." for what, reason in pruning.reasons.items()]
    importance = read_importance(output, layers)
    if isinstance(importance, str):
        lines.append(importance)
    else:
        if pruning.calibration:
            lines.append(f"Importance was measured on {pruning.calibration}.")
        pictures.append(heads_picture(layers, importance.heads))
        if (neurons := neurons_picture(layers, importance.neurons)) is not None:
            pictures.append(neurons)
    if pruning.compensation is not None:
        lines.append(f"{pruning.compensation}.")
    lines += [f"{recovery}." for recovery in pruning.recoveries]
    lines += [f"Note: {note}" for note in pruning.notes]
    return PageSection(anchor, heading, tuple(lines), tuple(pictures), (_counts_table(layers),))


def _counts_table(layers: Sequence[LayerCounts]) -> Table:
    """Return the counts that layers keep; consecutive equal layers share a row."""
    units = shown_units(layers)
    rows = []
    for (dense, kept, _), alike in itertools.groupby(layers, key=lambda each: (each.dense, each.kept, each.stack)):
        labels = [layer.label for layer in alike]
        said = (f"{kept.of(unit)} of {dense.of(unit)}" if dense.of(unit) else "none" for unit in units)
        rows.append((labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}", *said))
    headings = ("layer", *(HEADINGS[unit] for unit in units))
    return Table.of("Heads and neurons kept in each layer", headings, rows, folded=len(rows) > FOLDED_ROWS)


def parity_section(parity: ParityReport | None) -> PageSection:
    """Return the section on the error of every case."""
    anchor, heading = "parity", "Parity: does the graph compute what PyTorch computes?"
    if parity is None:
        return PageSection(anchor, heading, ("Not measured. amp-export validate OUT measures it.",))
    runs = f"{parity.runtime} ran the graph. " if parity.runtime is not None else ""
    line = (
        f"{runs}PyTorch in {parity.reference_dtype} is the reference. PyTorch's own {parity.dtype} is "
        f"off from it by up to {parity.noise:.2g}; the graph may be off by {parity.noise_factor:g} times the "
        "noise of each output."
    )
    lines, pictures = [line], [parity_picture(parity, "parity")]
    if (greedy := parity.greedy) is not None:
        lines.append(greedy_line(greedy))
    if parity.rounded is not None:
        lines.append(rounded_line(parity.rounded))
    if parity.defaults is not None:
        lines.append(defaults_line(parity.defaults))
    lines += parity.unreached
    if (explanation := parity.explanation) is not None:
        lines.append(explanation_line(explanation))
        pictures += [
            explanation_picture(part, f"explanation-{number}" if number else "explanation")
            for number, part in enumerate(by_graph(explanation))
        ]
    return PageSection(anchor, heading, tuple(lines), tuple(pictures), (_parity_table(parity, "Parity by case"),))


def _parity_table(parity: ParityReport, caption: str) -> Table:
    headings = (
        "case",
        "result",
        "largest error",
        "tolerance",
        "mean error",
        "mean tolerance",
        "noise",
        "KL",
        "top-1 agreement",
        "near ties",
        "positions",
    )
    return Table.of(caption, headings, (_parity_row(case, parity) for case in parity.cases), words=2)


def _parity_row(case: CaseResult, parity: ParityReport) -> tuple[str, ...]:
    tolerance, mean_tolerance = parity.tolerances(case)
    return (
        case_name(case),
        "holds" if case.holds else "FAILS",
        f"{case.max_error:.3g}",
        f"{tolerance:.3g}",
        f"{case.mean_error:.3g}",
        f"{mean_tolerance:.3g}",
        _number(case.noise),
        _number(case.kl),
        f"{case.top1_agreement:.1%}",
        "" if case.near_ties is None else str(case.near_ties),
        str(case.positions),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def checks_section(checks: Sequence[Check]) -> PageSection:
    """Return the section on thresholds and the baseline."""
    headings = ("number", "checked against", "result", "found")
    rows = ((check.name, check.against, "holds" if check.holds else "FAILS", check.found) for check in checks)
    table = Table.of("Each number and its limit", headings, rows, words=len(headings))
    return PageSection("checks", "Thresholds and baseline", tables=(table,))


def evaluation_section(evaluations: Mapping[str, EvaluationSummary]) -> PageSection:
    """Return the section on accuracy, perplexity and repetition, with the files that they were measured on."""
    headings = ("measure", "dense", "pruned", "difference", "95 % CI", "change", "floor")
    lines = (*evaluation_lines(evaluations), FLOOR)
    tables, files = [], []
    for part, evaluation in evaluations.items():
        rows = (
            (row.label, row.against, row.model, row.difference, row.interval, row.change, row.floor)
            for row in compared_rows(evaluation.model, evaluation.against, evaluation.differences)
        )
        tables.append(Table.of(f"Evaluation of {part}", headings, rows))
        files += [(file, sha256, part) for file, sha256 in evaluation.files.items()]
    tables.append(Table.of("Files that it was measured on", ("file", "SHA-256", "part"), files, words=3, folded=True))
    return PageSection("evaluation", "Evaluation: what the model can do", lines, tables=tuple(tables))


def device_section(anchor: str, name: str, device: DeviceReport) -> PageSection:
    """Return the section on a device."""
    model = device.facts.name
    pictures = [
        parity_picture(parity, f"{anchor}-{subject}", graph=f"the {subject} graph")
        for subject, parity in device.parity.items()
    ]
    tables = [
        _parity_table(parity, f"Parity of the {subject} graph by case") for subject, parity in device.parity.items()
    ]
    lines = [f"{model}, {device.runtime}."]
    if (benchmark := device.benchmark) is None:
        lines.append("Times were not measured because parity does not hold.")
    else:
        pictures += [*latency_pictures(benchmark, anchor), sizes_picture(benchmark, f"{anchor}-sizes")]
        tables += [latency_table(benchmark, "Times"), memory_table(benchmark, "Size, memory, load time and energy")]
    return PageSection(anchor, f"On {name}", tuple(lines), tuple(pictures), tuple(tables))


def provenance_section(report: Report, manifest: Manifest) -> PageSection:
    """Return the section on the source, the machine, versions, files and commands."""
    source = manifest.source
    commit = f", commit {source.commit}" if source.commit else ""
    lines = [f"Source: {source.name}{commit}, SHA-256 of config and weights {source.sha256}."]
    if report.pruning is not None:
        rewrite = report.pruning.rewrite
        if rewrite:
            lines.append(f"Written as {rewrite.class_name} ({rewrite.kind}): {rewrite.reason}.")
        if report.pruning.reload is not None:
            lines.append(reload_line(report.pruning.reload))
    if report.benchmark is not None:
        lines.append(f"Machine: {report.benchmark.machine}.")
        if report.benchmark.gpu is not None:
            lines.append(gpu_line(report.benchmark.gpu))
    versions = {"amp-export": manifest.amp_export, **(report.packages or {})}
    tables = [Table.of("Versions", ("package", "version"), versions.items(), words=2)]
    # the page cannot contain its own hash
    files = [(name, facts) for name, facts in manifest.files.items() if not name.startswith("report.")]
    rows = [(name, record.sha256, str(record.bytes)) for name, record in files]
    if rows:
        tables.append(Table.of("Files", ("file", "SHA-256", "bytes"), rows, words=2, folded=True))
    return PageSection(
        "provenance", "Provenance", tuple(lines), tables=tuple(tables), commands=tuple(commands(report, manifest))
    )
