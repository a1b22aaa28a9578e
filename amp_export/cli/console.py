"""What the command line shows: progress and tables on stderr, the report alone on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from amp_export.cli.show_explanation import show_explanation
from amp_export.cli.show_memory import show_fitting
from amp_export.doctor.diagnose import Diagnosis, Option
from amp_export.doctor.verdicts import Verdict
from amp_export.progress import Advance
from amp_export.pruning.rewriting import Rewrite, RewriteKind
from amp_export.reporting.checks import Check
from amp_export.reporting.report import Report, summary_rows, verdict_lines

SHOWN_OPTIONS = 16
"""Rows of the doctor's table: as many as fit on a screen."""


def stderr_console() -> Console:
    """A console on stderr; colours only on a terminal, and none with NO_COLOR."""
    return Console(stderr=True, highlight=False)


class ConsoleProgress:
    """Shows steps: a live bar on a terminal, and one line a step elsewhere, so that logs stay readable."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, description: str) -> Iterator[Advance]:
        """Opens a step; its line stays when it is done."""
        if not self.console.is_terminal:
            self.console.print(escape(description), soft_wrap=True)
            yield lambda _done, _total: None
            return
        columns = (
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(escape(description), total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
            total = bars.tasks[0].total or 1
            bars.update(task, completed=total, total=total)

    def note(self, message: str) -> None:
        """Prints a line."""
        self.console.print(escape(message), soft_wrap=True)


def show_report(console: Console, report: Report) -> None:
    """Prints the summary: a table, then what was proved."""
    rows = list(summary_rows(report))
    if rows:
        table = Table(title=f"amp-export: {escape(report.model)}", title_justify="left", box=SIMPLE)
        table.add_column("")
        for heading in ("dense", "pruned", "change"):
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(row.label, row.dense, row.pruned, escape(row.change))
        console.print(table)
    for line in verdict_lines(report):
        # a log keeps one sentence on a line, a terminal wraps between words
        console.print(escape(line), style=None if report.holds else "bold red", soft_wrap=not console.is_terminal)
    if report.parity is not None and report.parity.get("explanation") is not None:
        show_explanation(console, report.parity["explanation"])


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Prints what came of thresholds and of a baseline, one line each."""
    for check in checks:
        console.print(escape(check.text), style=None if check.holds else "bold red", soft_wrap=True)


def show_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Prints what a ratio would mean, one line for each way to meet it."""
    widths = diagnosis.widths
    console.print(
        f"[bold]{escape(diagnosis.model)}[/]: {diagnosis.class_name}, {diagnosis.parameters / 1e6:.1f} M parameters, "
        f"{diagnosis.num_layers} layers of {widths.query_heads} query heads, {widths.key_value_heads} key/value "
        f"heads and {widths.neurons} neurons",
        soft_wrap=True,
    )
    table = Table(title=f"Ways to remove {diagnosis.ratio:.1%} of all parameters", title_justify="left", box=SIMPLE)
    for heading in ("--heads", "query", "key/value", "neurons", "removed", "class"):
        table.add_column(heading, justify="left" if heading in ("--heads", "class") else "right", no_wrap=True)
    for option in diagnosis.options[:SHOWN_OPTIONS]:
        table.add_row(*_option_cells(option), style="bold" if option is diagnosis.chosen else None)
    console.print(table)
    if (more := len(diagnosis.options) - SHOWN_OPTIONS) > 0:
        console.print(f"{more} more keep fewer heads still; --heads restricts the choice.", soft_wrap=True)
    if (chosen := diagnosis.chosen) is not None:
        kept = " ".join(_option_cells(chosen)[1:4])
        where = "on average" if chosen.shared_out else "in every layer"
        console.print(f"Kept {where} (query heads, key/value heads, neurons): {kept}.", soft_wrap=True)
    else:
        console.print("The scores will choose among them; --heads restricts the choice.", soft_wrap=True)
    considered = diagnosis.options if diagnosis.chosen is None else (diagnosis.chosen,)
    if example := next((option for option in considered if option.rewrite.kind is not RewriteKind.SAME_CLASS), None):
        console.print(f"{example.rewrite.class_name}: {example.rewrite.reason}.", soft_wrap=True)
    _show_compatibility(console, diagnosis.compatibility)
    show_fitting(console, diagnosis)


def _show_compatibility(console: Console, verdicts: Sequence[Verdict]) -> None:
    console.print()
    table = Table(title="What loads the result", title_justify="left", box=SIMPLE)
    table.add_column("runtime", no_wrap=True)
    table.add_column("", min_width=16)
    table.add_column("why", ratio=1)
    for verdict in verdicts:
        status = verdict.status.value if verdict.needs is None else f"{verdict.status.value} {verdict.needs}"
        why = escape(verdict.reason or "")
        if verdict.nearest is not None:
            why += f"; the nearest ratio that it loads is {verdict.nearest:g}"
        style = None if verdict.loads else "yellow"
        table.add_row(verdict.runtime, f"[{style}]{escape(status)}[/]" if style else escape(status), why)
    console.print(table)
    if unproved := [f"{verdict.runtime} {verdict.version}" for verdict in verdicts if not verdict.tried]:
        console.print(f"By their sources, not tried here: {', '.join(unproved)}.", soft_wrap=True)


def _option_cells(option: Option) -> tuple[str, ...]:
    candidate, widths = option.candidate, option.candidate.widths
    counts = (str(count) for count in (widths.query_heads, widths.key_value_heads, widths.neurons))
    return (candidate.heads.value, *counts, f"{candidate.ratio:.2%}", _class_of(option.rewrite))


def _class_of(rewritten: Rewrite) -> str:
    return rewritten.class_name if rewritten.is_stock else f"{rewritten.class_name}, resized"


def show_error(console: Console, message: str) -> None:
    """Prints an error; the first line says what is wrong, the rest what to do."""
    first, _, rest = message.partition("\n")
    console.print(f"[bold red]Error:[/] {escape(first)}", soft_wrap=True)
    if rest:
        console.print(escape(rest), soft_wrap=True)


def print_json(text: str) -> None:
    """Writes a report to stdout, and nothing else."""
    sys.stdout.write(text)
