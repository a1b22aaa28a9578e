"""Output of the command line: progress and tables on stderr, only the JSON report on stdout."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from amp_export.cli.show_explanation import show_explanation
from amp_export.progress import Advance
from amp_export.reporting.checks import Check
from amp_export.reporting.report import Report
from amp_export.reporting.summary import summary_rows, verdict_lines

BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells report it."""


def stderr_console() -> Console:
    """Return a console on stderr, with colours only on a terminal and never with NO_COLOR."""
    return Console(file=cast("TextIO", _Lossy(sys.stderr)), highlight=False)


class _Lossy:
    """A stream that loses what cannot be written, since exit codes tell more than messages on a disk that is full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class ConsoleProgress:
    """Progress as a live bar on a terminal, and as one line per step elsewhere, so that logs stay readable."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, description: str) -> Iterator[Advance]:
        """Open a step; its line stays when it is done. An error in it is given a note that names the step."""
        try:
            with self._shown(description) as advance:
                yield advance
        except Exception as error:
            error.add_note(f"while {description[:1].lower()}{description[1:]}")
            raise

    @contextmanager
    def _shown(self, description: str) -> Iterator[Advance]:
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
        """Print a message."""
        self.console.print(escape(message), soft_wrap=True)


def show_report(console: Console, report: Report) -> None:
    """Print the summary: a table, then the verdicts."""
    rows = list(summary_rows(report))
    if rows:
        table = Table(title=f"amp-export: {escape(report.model)}", title_justify="left", box=SIMPLE)
        table.add_column("")
        for heading in ("dense", "pruned", "change"):
            table.add_column(heading, justify="right")
        for row in rows:
            # tasks and devices have names of the user's
            table.add_row(*map(escape, (row.label, row.dense, row.pruned, row.change)))
        console.print(table)
    for line in verdict_lines(report):
        # in a log, each sentence is one line; on a terminal, lines wrap between words
        console.print(escape(line), style=None if report.holds else "bold red", soft_wrap=not console.is_terminal)
    if report.parity is not None and report.parity.explanation is not None:
        show_explanation(console, report.parity.explanation)


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Print the results of thresholds and of a baseline, one per line."""
    for check in checks:
        console.print(escape(check.text), style=None if check.holds else "bold red", soft_wrap=True)


def show_error(console: Console, message: str) -> None:
    """Print an error; the first line states the problem, the rest the next step."""
    first, _, rest = message.partition("\n")
    console.print(f"[bold red]Error:[/] {escape(first)}", soft_wrap=True)
    if rest:
        console.print(escape(rest), soft_wrap=True)


def write_out(text: str) -> None:
    """Write text to stdout at once.

    Raises:
        Exit: Nobody reads it any more, as after `| head`.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would try to write the rest at exit, and say that it failed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None


def print_json(text: str) -> None:
    """Write a JSON report to stdout."""
    write_out(text)
