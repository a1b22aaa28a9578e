"""The plot of an explanation in a terminal: how far each layer is off, and where that begins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 30
"""Characters of the longest bar."""

DECADES = 6
"""Powers of ten that it stands for."""

Section = Mapping[str, Any]


def show_explanation(console: Console, explanation: Section) -> None:
    """Prints one line for each layer: its worst value, what is tolerated there, and a bar for how often that is."""
    table = Table(title=f"Within, in the case {escape(explanation['case'])}", title_justify="left", box=SIMPLE)
    for heading, justify in (("layer", "right"), ("worst", "left"), ("off by", "right"), ("tolerated", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column(f"one tolerance to 10^{DECADES}", min_width=WIDTH, no_wrap=True)
    for layer, point in worst_points(explanation["points"]):
        begins = "  <- first" if point == explanation["first"] else ""
        cells = (layer, f"{point['module']}{begins}", f"{point['error']:.2g}", f"{point['tolerance']:.2g}")
        table.add_row(*map(escape, cells), bar(point), style=None if point["holds"] else "bold red")
    console.print(table)


def worst_points(points: Sequence[Section]) -> Iterator[tuple[str, Section]]:
    """The worst value of each layer, and of all before, between and after them; the first that fails goes before.

    Yields:
        The layer's number, or nothing, and the value.
    """
    groups: list[list[Section]] = []
    for point in points:
        if not groups or groups[-1][0]["layer"] != point["layer"]:
            groups.append([])
        groups[-1].append(point)
    for group in groups:
        failing = next((point for point in group if not point["holds"]), None)
        layer = group[0]["layer"]
        yield "" if layer is None else str(layer), failing or max(group, key=_excess)


def bar(point: Section) -> str:
    """A bar as long as the power of ten by which a value is beyond its tolerance; a dot where it is within."""
    excess = _excess(point)
    if point["holds"]:
        return "."
    decades = DECADES if math.isinf(excess) else max(0.0, math.log10(excess))
    return "#" * max(1, min(WIDTH, round(WIDTH * decades / DECADES)))


def _excess(point: Section) -> float:
    return math.inf if not point["tolerance"] else float(point["error"] / point["tolerance"])
