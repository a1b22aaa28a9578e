"""Rows and sentences about a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from amp_export.architectures import LayerWidths
from amp_export.outputs.manifest import RewriteKind
from amp_export.parity.extremes import largest
from amp_export.parity.results import Explanation, Greedy, ParityReport, RoundedActivations, RuntimeDefaults
from amp_export.pruning.quality import Quality
from amp_export.pruning.reload_check import ReloadProof
from amp_export.reporting.benchmarks import PhaseRow, benchmark_lines, benchmark_rows
from amp_export.reporting.devices import device_lines
from amp_export.reporting.evaluations import evaluation_lines, evaluation_rows
from amp_export.reporting.report import PruningSection, Report
from amp_export.reporting.wording import (
    PARITY_NOT_CHECKED,
    case_name,
    change,
    count_failed,
    holds_in_how_many,
    worst_error,
)


def summary_rows(report: Report) -> Iterator[PhaseRow]:
    """Yield the rows of the summary, for the terminal and for Markdown."""
    if (pruning := report.pruning) is not None:
        before, after = pruning.parameters_before, pruning.parameters_after
        yield PhaseRow("Parameters", f"{before / 1e6:.1f} M", f"{after / 1e6:.1f} M", change(before, after))
        yield from _width_rows(pruning.widths_before, pruning.widths)
    if (quality := report.quality) is not None:
        dense_perplexity, pruned_perplexity = quality.dense, quality.pruned
        cost = f"x {pruned_perplexity / dense_perplexity:.2f}"
        yield PhaseRow("Held-out perplexity", f"{dense_perplexity:.2f}", f"{pruned_perplexity:.2f}", cost)
        yield from _agreement_rows(quality)
        if (other := quality.other) is not None:
            cost = f"x {other.pruned / other.dense:.2f}"
            yield PhaseRow("Perplexity on other kinds of text", f"{other.dense:.2f}", f"{other.pruned:.2f}", cost)
    yield from evaluation_rows(report.evaluations or {})
    for number, benchmark in enumerate((report.benchmarks or {}).values()):
        if number:
            yield PhaseRow(f"With {benchmark.runtime}")
        yield from benchmark_rows(benchmark)
    for name, device in (report.devices or {}).items():
        if device.benchmark is not None:
            yield PhaseRow(f"On {name}")
            yield from benchmark_rows(device.benchmark)


def _agreement_rows(quality: Quality) -> Iterator[PhaseRow]:
    """Yield the agreement of the pruned model with the dense one, which reports of earlier versions lack."""
    if quality.kl is not None:
        yield PhaseRow("KL from dense, nats", pruned=f"{quality.kl:.3g}")
        yield PhaseRow("Top-1 agreement", pruned=f"{quality.top1_agreement:.1%}")


def _width_rows(dense: LayerWidths, layers: Sequence[LayerWidths]) -> Iterator[PhaseRow]:
    yield PhaseRow("Query heads per layer", f"{dense.query_heads}", _range(layers, "query_heads"))
    # if heads do not share keys and values, both numbers are the same
    if any(widths.key_value_heads != widths.query_heads for widths in (dense, *layers)):
        yield PhaseRow("KV heads", f"{dense.key_value_heads}", _range(layers, "key_value_heads"))
    yield PhaseRow("Neurons per layer", f"{dense.neurons}", _range(layers, "neurons"))


def _range(layers: Sequence[LayerWidths], unit: str) -> str:
    """Return the range of a count over the layers that have any, or one number if all are equal."""
    counts = [count for layer in layers if (count := getattr(layer, unit))]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def verdict_lines(report: Report) -> Iterator[str]:
    """Yield the verdicts and how they were reached, one sentence per line."""
    if report.pruning is not None:
        yield from _pruning_lines(report.pruning)
    if report.parity is not None:
        yield from _parity_lines(report.parity)
    else:
        yield f"{PARITY_NOT_CHECKED}."
    if report.quality is not None:
        yield f"Quality is measured on {report.quality.text}."
    yield from evaluation_lines(report.evaluations or {})
    for benchmark in (report.benchmarks or {}).values():
        yield from benchmark_lines(benchmark)
    for name, device in (report.devices or {}).items():
        yield from device_lines(name, device)
    for note in report.pruning.notes if report.pruning is not None else ():
        yield f"Note: {note}"


def _parity_lines(parity: ParityReport) -> Iterator[str]:
    runs = f" with {parity.runtime}" if parity.runtime is not None else ""
    yield (
        f"Parity {holds_in_how_many(*count_failed(parity.cases))}{runs}: largest error "
        f"{worst_error(parity.cases):.2g}, PyTorch's own {parity.dtype} noise {parity.noise:.2g}, tolerance "
        f"{parity.tolerance:.2g}."
    )
    if (explanation := parity.explanation) is not None:
        yield explanation_line(explanation)
    if (greedy := parity.greedy) is not None:
        yield greedy_line(greedy)
    if (rounded := parity.rounded) is not None:
        yield rounded_line(rounded)
    if (defaults := parity.defaults) is not None:
        yield defaults_line(defaults)
    yield from parity.unreached
    yield from (
        f"{case_name(case)}: largest error {case.max_error:.3g}, tolerance {tolerance:.3g}; mean error "
        f"{case.mean_error:.3g}, tolerance {mean_tolerance:.3g}."
        for case in (*parity.cases, *(parity.rounded.cases if parity.rounded is not None else ()))
        for tolerance, mean_tolerance in [parity.tolerances(case)]
        if not case.holds
    )


def _pruning_lines(pruning: PruningSection) -> Iterator[str]:
    rewrite = pruning.rewrite
    if rewrite is not None and rewrite.kind is not RewriteKind.SAME_CLASS:
        yield f"Rewritten as {rewrite.class_name} ({rewrite.kind}): {rewrite.reason}."
    if pruning.compensation is not None:
        yield f"{pruning.compensation}."
    for recovery in pruning.recoveries:
        yield f"{recovery}."
    if pruning.reload is not None:
        yield reload_line(pruning.reload)


def explanation_line(explanation: Explanation) -> str:
    """Return the first intermediate value that differs between graph and model."""
    compared = f"Intermediate values, case {explanation.case}: {len(explanation.points)} compared"
    if (first := explanation.first) is None:
        return f"{compared}, all within tolerance."
    where = f" (layer {first.layer})" if first.layer is not None else ""
    # an encoder-decoder has several graphs
    if len({point.graph for point in explanation.points}) > 1:
        where += f" of {first.graph}"
    return (
        f"{compared}; the first that differs is {first.module}{where}, computed by {first.operator}: error "
        f"{first.error:.3g}, tolerance {first.tolerance:.3g}. Operators since the last values that agree: "
        f"{', '.join(explanation.operators)}."
    )


def greedy_line(greedy: Greedy) -> str:
    """Return how many greedily decoded tokens of graph and model agree."""
    common = f"Greedy decoding: graph and generate() agree on {greedy.common} of {greedy.steps} tokens"
    if greedy.common == greedy.steps:
        return f"{common}."
    return f"{common}; the next token is {'a near tie' if greedy.near_tie else 'not a near tie: FAILS'}."


def rounded_line(rounded: RoundedActivations) -> str:
    """Return how far the graph is from the reference as it runs, with activations rounded to int8."""
    kl = sum(case.kl * case.positions for case in rounded.cases if case.kl is not None)
    positions = sum(case.positions for case in rounded.cases)
    top1 = sum(case.top1_agreement * case.positions for case in rounded.cases) / positions
    noise = largest(case.noise for case in rounded.cases if case.noise is not None)
    return (
        f"With activations rounded to int8, as the runtime multiplies: largest error {worst_error(rounded.cases):.2g}, "
        f"PyTorch's with the same rounding {noise:.2g}, KL {kl / positions:.2g} nats, top-1 {top1:.1%}"
        f"{'' if rounded.holds else ': FAILS'}."
    )


def defaults_line(defaults: RuntimeDefaults) -> str:
    """Return how far the graph is from the reference in the runtime's default settings."""
    return (
        f"In the runtime's default settings ({defaults.settings}): largest error {defaults.max_error:.2g}, KL "
        f"{defaults.kl:.2g} nats, top-1 {defaults.top1_agreement:.1%} of {defaults.positions} positions."
    )


def reload_line(reload: ReloadProof) -> str:
    """Return the result of the reload."""
    tokens = f" and {reload.tokens_compared} token ids" if reload.tokens_compared else ""
    return (
        f"Reload: {reload.class_name} in a process without amp_export, {reload.logits_compared:,} output values"
        f"{tokens} equal bit for bit."
    )
