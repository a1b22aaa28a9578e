"""Show the result of a command, and exit with its code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from amp_export.cli.console import print_json, show_checks, show_report
from amp_export.errors import command_line

if TYPE_CHECKING:
    from rich.console import Console

    from amp_export.api.draft import Drafted
    from amp_export.pruning.pipeline import PruneResult
    from amp_export.pruning.quality import Quality
    from amp_export.recovery.pipeline import Recovered
    from amp_export.reporting.report import Report


def show_pruning(console: Console, result: PruneResult) -> None:
    """Print the share of parameters that pruning removed, and the quality after it."""
    lines = [f"{result.plan.achieved:.2%} removed. {result.reload}."]
    if result.compensation is not None:
        lines.append(f"{result.compensation}.")
    lines += _quality_lines(result.quality)
    lines += [f"Note: {note}" for note in result.notes]
    for line in (*lines, f"Written: {result.folder}"):
        console.print(line, markup=False, soft_wrap=True)


def show_recovery(console: Console, recovered: Recovered, output: Path) -> None:
    """Print what training brought, and what comes next."""
    recovery = recovered.recovery
    lines = [f"{recovery}."]
    if recovered.reload is None:
        rate = recovery.learning_rate / 5
        lines.append(f"{output} is unchanged. Try a smaller learning rate, such as --learning-rate {rate:.2g}.")
    else:
        export = command_line("amp-export", "export", "--model", output / "pruned", "--to", "onnx", "--output", output)
        lines += [
            f"{recovered.reload}.",
            *_quality_lines(recovered.quality),
            f"Written: {output / 'pruned'}",
            f"Exports of the earlier weights, and what was found out about them, are removed. Export again: {export}",
        ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def show_draft(console: Console, drafted: Drafted) -> None:
    """Print what a draft brings, and how to open it."""
    lines = []
    if (found := drafted.measurement) is not None:
        low, high = found.acceptance_interval
        slow, fast = found.interval
        different = sum(not text.same for text in found.texts)
        lines += [
            f"Accepted: {found.acceptance:.1%} [{low:.1%}, {high:.1%}] of the drafted tokens; "
            f"{found.tokens_per_pass:.2f} tokens per pass of the dense model.",
            f"Speed: {found.dense_tokens_per_second:.1f} tokens/s by the dense model alone, "
            f"{found.drafted_tokens_per_second:.1f} with drafts: speedup {found.speedup:.2f} [{slow:.2f}, {fast:.2f}], "
            f"{found.conclusion}, over {len(found.texts)} texts in {found.runtime}.",
            f"{different} of {len(found.texts)} texts differ from the dense model's."
            if different
            else "All texts are those of the dense model alone.",
        ]
    for line in (*lines, f"Written: {drafted.folder} ({drafted.bytes_on_disk / 1e6:.0f} MB)"):
        console.print(line, markup=False, soft_wrap=True)


def _quality_lines(quality: Quality | None) -> Iterator[str]:
    if quality is None:
        return
    yield f"Perplexity {quality.dense:.2f} -> {quality.pruned:.2f}, measured on {quality.text}."
    if quality.kl is not None and quality.top1_agreement is not None:
        yield (
            f"KL divergence from the dense model {quality.kl:.3g} nats; same top-1 token for "
            f"{quality.top1_agreement:.1%} of the tokens."
        )
    if (other := quality.other) is not None:
        yield f"Perplexity {other.dense:.2f} -> {other.pruned:.2f} on {other.text}."


def show_result(
    console: Console, report: Report, *, as_json: bool, written: Path | None, note: str | None = None
) -> None:
    """Print a report, as JSON on stdout or as tables on the console.

    Args:
        console: Console for tables and notes.
        report: The report.
        as_json: Whether to print JSON on stdout.
        written: The output directory that the command wrote, or None.
        note: One more line to print.

    Raises:
        typer.Exit: Parity, a threshold or the baseline fails; the exit code is 1.
    """
    if as_json:
        print_json(report.to_json())
    else:
        show_report(console, report)
        if written is not None:
            console.print(f"Written: {written}", markup=False, soft_wrap=True)
            if (page := written / "report.html").is_file():
                console.print(f"Open in a browser: {page}", markup=False, soft_wrap=True)
    show_checks(console, report.checks or ())
    if note is not None:
        console.print(note, markup=False, soft_wrap=True)
    if not (report.holds and report.checks_hold):
        raise typer.Exit(1)
