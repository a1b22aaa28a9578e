"""What a report says in rows and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from amp_export.architectures import LayerWidths
from amp_export.outputs.manifest import RewriteKind
from amp_export.parity.results import Explanation, Greedy
from amp_export.pruning.quality import Quality
from amp_export.pruning.reload_check import ReloadProof
from amp_export.reporting.benchmarks import PhaseRow, benchmark_lines, benchmark_rows
from amp_export.reporting.devices import device_lines
from amp_export.reporting.report import Report
from amp_export.reporting.wording import case_name, change, count_failed, holds_in_how_many, worst_error


def summary_rows(report: Report) -> Iterator[PhaseRow]:
    """Yield the lines of the summary, for the terminal and for Markdown alike."""
    if (pruning := report.pruning) is not None:
        before, after = pruning.parameters_before, pruning.parameters_after
        yield PhaseRow("Parameters", f"{before / 1e6:.1f} M", f"{after / 1e6:.1f} M", change(before, after))
        yield from _width_rows(pruning.widths_before, pruning.widths)
    if (quality := report.quality) is not None:
        dense_perplexity, pruned_perplexity = quality.dense, quality.pruned
        cost = f"x {pruned_perplexity / dense_perplexity:.2f}"
        yield PhaseRow("Held-back perplexity", f"{dense_perplexity:.2f}", f"{pruned_perplexity:.2f}", cost)
        yield from _agreement_rows(quality)
    for number, benchmark in enumerate((report.benchmarks or {}).values()):
        if number:
            yield PhaseRow(f"With {benchmark.runtime}")
        yield from benchmark_rows(benchmark)
    for name, device in (report.devices or {}).items():
        if device.benchmark is not None:
            yield PhaseRow(f"On {name}")
            yield from benchmark_rows(device.benchmark)


def _agreement_rows(quality: Quality) -> Iterator[PhaseRow]:
    """Yield how far the pruned model predicts what the dense one does, which reports of earlier versions do not say."""
    if quality.kl is not None:
        yield PhaseRow("KL from dense, nats", pruned=f"{quality.kl:.3g}")
        yield PhaseRow("Same first choice", pruned=f"{quality.top1_agreement:.1%}")


def _width_rows(dense: LayerWidths, layers: Sequence[LayerWidths]) -> Iterator[PhaseRow]:
    yield PhaseRow("Query heads a layer", f"{dense.query_heads}", _range(layers, "query_heads"))
    # where heads do not share keys and values, there are as many of one as of the other
    if any(widths.key_value_heads != widths.query_heads for widths in (dense, *layers)):
        yield PhaseRow("Key/value heads", f"{dense.key_value_heads}", _range(layers, "key_value_heads"))
    yield PhaseRow("Neurons a layer", f"{dense.neurons}", _range(layers, "neurons"))


def _range(layers: Sequence[LayerWidths], unit: str) -> str:
    """Return what the layers that have any keep: one number where all keep the same."""
    counts = [count for layer in layers if (count := getattr(layer, unit))]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def verdict_lines(report: Report) -> Iterator[str]:
    """Yield what was proved, one sentence a line."""
    rewrite = report.pruning.rewrite if report.pruning is not None else None
    if rewrite is not None and rewrite.kind is not RewriteKind.SAME_CLASS:
        yield f"Rewritten as {rewrite.class_name} ({rewrite.kind}): {rewrite.reason}."
    if report.pruning is not None and report.pruning.reload is not None:
        yield reload_line(report.pruning.reload)
    if (parity := report.parity) is not None:
        runs = f" with {parity.runtime}" if parity.runtime is not None else ""
        yield (
            f"Parity {holds_in_how_many(*count_failed(parity.cases))}{runs}: graph off by up to "
            f"{worst_error(parity.cases):.2g}, PyTorch's own {parity.dtype} noise is {parity.noise:.2g}, "
            f"tolerated is {parity.tolerance:.2g}."
        )
        if (explanation := parity.explanation) is not None:
            yield explanation_line(explanation)
        if (greedy := parity.greedy) is not None:
            yield greedy_line(greedy)
        yield from (
            f"{case_name(case)}: off by up to {case.max_error:.3g} and {case.mean_error:.3g} in the mean, "
            f"tolerated are {tolerance:.3g} and {mean_tolerance:.3g}."
            for case in parity.cases
            for tolerance, mean_tolerance in [parity.tolerances(case)]
            if not case.holds
        )
    if report.quality is not None:
        yield f"Quality is measured on {report.quality.text}."
    for benchmark in (report.benchmarks or {}).values():
        yield from benchmark_lines(benchmark)
    for name, device in (report.devices or {}).items():
        yield from device_lines(name, device)
    for note in report.pruning.notes if report.pruning is not None else ():
        yield f"Note: {note}"


def explanation_line(explanation: Explanation) -> str:
    """Return where graph and model part within."""
    within = f"{len(explanation.points)} values within, looked at in the case {explanation.case}"
    if (first := explanation.first) is None:
        return f"Graph and model agree in all of {within}."
    where = f" (layer {first.layer})" if first.layer is not None else ""
    # an encoder with a decoder is several graphs
    if len({point.graph for point in explanation.points}) > 1:
        where += f" of {first.graph}"
    return (
        f"Of {within}, the first that differs is {first.module}{where}, which {first.operator} makes: off by up "
        f"to {first.error:.3g}, tolerated is {first.tolerance:.3g}. From the last that agree to there: "
        f"{', '.join(explanation.operators)}."
    )


def greedy_line(greedy: Greedy) -> str:
    """Return how far graph and model write the same."""
    common = f"Greedily, graph and model write {greedy.common} of {greedy.steps} tokens alike"
    if greedy.common == greedy.steps:
        return f"{common}."
    return f"{common}; the next is {'a near tie' if greedy.near_tie else 'no near tie: that FAILS'}."


def reload_line(reload: ReloadProof) -> str:
    """Return what the reload proved."""
    tokens = f" and {reload.tokens_compared} token ids" if reload.tokens_compared else ""
    # named after the end of the class: a model without a head returns its last hidden states
    bare = reload.class_name.endswith("Model") and not reload.class_name.endswith("LMHeadModel")
    values = "hidden values" if bare else "logits"
    return (
        f"Reload: {reload.class_name} in a process without amp_export, {reload.logits_compared:,} {values}"
        f"{tokens} equal bit for bit."
    )
