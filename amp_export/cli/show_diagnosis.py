"""Show a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from amp_export.cli.show_memory import show_memory
from amp_export.doctor.diagnose import Diagnosis, Option
from amp_export.doctor.verdicts import Verdict
from amp_export.outputs.manifest import RewriteKind
from amp_export.pruning.rewriting import Rewrite

SHOWN_OPTIONS = 16
"""Maximum number of rows in the doctor's table: as many as fit on a screen."""


def show_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Print the ways to meet a ratio, one per line, then compatibility and memory estimate."""
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
        console.print("The scores choose among these; --heads restricts the choice.", soft_wrap=True)
    considered = diagnosis.options if diagnosis.chosen is None else (diagnosis.chosen,)
    if example := next((option for option in considered if option.rewrite.kind is not RewriteKind.SAME_CLASS), None):
        console.print(f"{example.rewrite.class_name}: {example.rewrite.reason}.", soft_wrap=True)
    _show_compatibility(console, diagnosis.compatibility)
    show_memory(console, diagnosis)
    for note in diagnosis.notes:
        console.print(note, soft_wrap=True)


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
        console.print(f"According to their source code, not tried here: {', '.join(unproved)}.", soft_wrap=True)


def _option_cells(option: Option) -> tuple[str, ...]:
    candidate, widths = option.candidate, option.candidate.widths
    counts = (str(count) for count in (widths.query_heads, widths.key_value_heads, widths.neurons))
    return (candidate.heads.value, *counts, f"{candidate.ratio:.2%}", _class_of(option.rewrite))


def _class_of(rewritten: Rewrite) -> str:
    return rewritten.class_name if rewritten.is_stock else f"{rewritten.class_name}, resized"
