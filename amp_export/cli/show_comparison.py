"""Show a comparison of several outputs."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from amp_export.reporting.comparison import Comparison, Measure

PARITY = {True: "holds", False: "FAILS", None: "not measured"}


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print a table with a column for each output, then notes on numbers that are hard to compare."""
    table = Table(title="amp-export: against the first", title_justify="left", box=SIMPLE)
    table.add_column("")
    for output in comparison.outputs:
        table.add_column(escape(output), justify="right", overflow="fold")
    if len(set(comparison.models)) > 1:
        table.add_row("Model", *map(escape, comparison.models))
    for measure in comparison.measures:
        table.add_row(escape(measure.label), *(_cell(measure, number) for number in range(len(comparison.outputs))))
    table.add_row("Parity", *(PARITY[holds] for holds in comparison.parity))
    console.print(table)
    for note in comparison.notes:
        console.print(escape(note), soft_wrap=not console.is_terminal)
    if not comparison.holds:
        console.print("Parity FAILS in one of them.", style="bold red", soft_wrap=True)


def _cell(measure: Measure, number: int) -> str:
    value, interval, change = measure.values[number], measure.intervals[number], measure.changes[number]
    if value is None:
        return "not measured"
    parts = [measure.unit.show(value)]
    if interval is not None:
        parts.append(f"[{interval[0]:.2f}, {interval[1]:.2f}]")
    if change is not None:
        parts.append(f"({change:+.1%})")
    return escape(" ".join(parts))
