"""Show an explanation in a terminal: the error of each layer, and the first that exceeds its tolerance."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from amp_export.parity.results import Explanation, Point
from amp_export.reporting.wording import by_graph, explanation_title

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 20
"""Length of the longest bar in characters."""

DECADES = 6
"""Powers of ten that the longest bar stands for."""


def show_explanation(console: Console, explanation: Explanation) -> None:
    """Print one line for each layer: its worst value, and a bar for the powers of ten beyond the tolerance."""
    for within in by_graph(explanation):
        table = Table(title=escape(explanation_title(within)), title_justify="left", box=SIMPLE)
        table.add_column("layer", justify="right", no_wrap=True)
        # on a narrow terminal, only columns that may wrap shrink: fold long names, keep numbers whole
        table.add_column("worst", overflow="fold")
        for heading in ("error", "tolerance"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("beyond", no_wrap=True)
        for layer, point in worst_points(within.points):
            drawn = f"{bar(point)} first" if point == within.first else bar(point)
            cells = (layer, _below_layer(point.module), f"{point.error:.1e}", f"{point.tolerance:.1e}", drawn)
            table.add_row(*map(escape, cells), style=None if point.holds else "bold red")
        console.print(table)


def worst_points(points: Sequence[Point]) -> Iterator[tuple[str, Point]]:
    """Yield one value for each layer, and for before and after the layers: the first that fails, or else the worst.

    Yields:
        The layer's number, or an empty string, and the value.
    """
    last = max((number for number, point in enumerate(points) if point.layer is not None), default=-1)
    groups: dict[float, list[Point]] = {}
    for number, point in enumerate(points):
        outside = -1 if number < last else math.inf
        groups.setdefault(outside if point.layer is None else point.layer, []).append(point)
    for layer, group in sorted(groups.items()):
        failing = next((point for point in group if not point.holds), None)
        yield str(layer) if 0 <= layer < math.inf else "", failing or max(group, key=_excess)


def _below_layer(module: str) -> str:
    """Return a module's name within its layer, or `the whole layer`."""
    match = re.match(r".*?\.\d+(?:\.(.+))?$", module)
    return module if match is None else match[1] or "the whole layer"


def bar(point: Point) -> str:
    """Return a bar as long as the power of ten by which a value exceeds its tolerance; a dot if it does not."""
    excess = _excess(point)
    if point.holds:
        return "."
    decades = DECADES if math.isinf(excess) else max(0.0, math.log10(excess))
    return "#" * max(1, min(WIDTH, round(WIDTH * decades / DECADES)))


def _excess(point: Point) -> float:
    if not point.tolerance:
        return math.inf
    excess = float(point.error / point.tolerance)
    # both are infinite where PyTorch overflows, too
    return 0.0 if math.isnan(excess) else excess
