"""Plots of parity: the error of every case, and of values within the graph."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from amp_export.parity.results import CaseResult, Explanation, ParityReport
from amp_export.reporting.html.svg import BAD, GREY, INK, PRUNED, WHITE, Picture, drawing, to_picture, write_above
from amp_export.reporting.wording import case_name, explanation_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_LETTERS = 46
"""Number of characters that fit into one line of a plot."""

LEAST_SHARE = 1e-3
"""Start of the axis of an explanation, as a share of the tolerance."""


def parity_picture(parity: ParityReport, name: str, *, graph: str = "the graph") -> Picture:
    """Draw the error of every case as a share of its tolerance."""
    cases = parity.cases
    shares = [
        (
            case.max_error / parity.tolerances(case)[0],
            case.mean_error / parity.tolerances(case)[1],
        )
        for case in cases
    ]
    finite = [share for pair in shares for share in pair if math.isfinite(share)]
    worst = max(finite, default=0.0)
    names = [textwrap.wrap(_case_label(case), LINE_LETTERS) for case in cases]
    with drawing((20 + 15 * max(map(len, names))) * len(cases) + 110) as figure:
        axes = figure.subplots()
        _tolerance_axis(axes, worst)
        for row, (case, pair) in enumerate(zip(cases, shares, strict=True)):
            colour = PRUNED if case.holds else BAD
            write_above(axes, row - 0.14, "\n".join(names[row]))
            for share, marker, fill in zip(pair, ("o", "D"), (colour, WHITE), strict=True):
                at = share if math.isfinite(share) else axes.get_xlim()[1]
                axes.plot(
                    [at], [row + 0.12], marker=marker, color=colour, markerfacecolor=fill, markersize=8, clip_on=False
                )
        axes.set_ylim(len(cases) - 0.4, -0.9)
        axes.set_yticks([])
        axes.spines.left.set_visible(False)
        for marker, fill, label in (("o", GREY, "largest error"), ("D", WHITE, "mean error")):
            axes.plot([], [], marker=marker, linestyle="", color=GREY, markerfacecolor=fill, label=label)
        figure.legend(loc="outside upper left", ncols=2)
        failed = sum(not case.holds for case in cases)
        return to_picture(
            figure,
            name,
            title=f"Error of {graph} against its tolerance",
            description=f"For each of {len(cases)} cases the largest and the mean error as a share of the "
            f"tolerance, which a line marks. The worst is at {worst:.0%}. "
            f"{f'{failed} fail.' if failed else 'None fails.'} The table below has the numbers.",
        )


def _case_label(case: CaseResult) -> str:
    label = case_name(case) if case.holds else f"FAILS: {case_name(case)}"
    return label if math.isfinite(case.max_error) else f"{label} (error is {case.max_error})"


def _tolerance_axis(axes: Axes, worst: float) -> None:
    """Label shares of the tolerance, by powers of ten if an error is far beyond it; hatch what exceeds it."""
    from matplotlib.ticker import FuncFormatter

    if worst > 4:
        axes.set_xscale("log")
        axes.set_xlim(0.01, worst * 2)
    else:
        axes.set_xlim(0, max(1.12, worst * 1.1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}" if share < 10 else f"x {share:g}"))
    axes.axvline(1, color=INK, linestyle="--", linewidth=1.4)
    axes.axvspan(1, axes.get_xlim()[1], facecolor="none", edgecolor=GREY, hatch="////", alpha=0.6, linewidth=0)
    axes.set_xlabel("share of the tolerance; hatched: beyond it")


def explanation_picture(explanation: Explanation, name: str) -> Picture:
    """Draw the error of every value within a graph, layer by layer, as a multiple of its tolerance."""
    points = explanation.points
    shares = [point.error / point.tolerance if point.tolerance else math.inf for point in points]
    most = 10 * max([share for share in shares if math.isfinite(share)] + [1.0])
    # NaN is drawn at the end of the axis
    heights = [min(max(share, LEAST_SHARE), most) if not math.isnan(share) else most for share in shares]
    places = _places([point.layer for point in points])
    failing = [point.module for point in points if not point.holds]
    with drawing(230) as figure:
        axes = figure.subplots()
        _excess_axis(axes, most)
        for holds, marker, colour, size in ((True, "o", PRUNED, 14), (False, "x", BAD, 30)):
            chosen = [number for number, point in enumerate(points) if point.holds is holds]
            across, up = ([values[number] for number in chosen] for values in (places, heights))
            axes.scatter(across, up, marker=marker, color=colour, s=size, linewidths=1.2)
        axes.locator_params(axis="x", nbins=8, integer=True)
        axes.set_xlabel("layer; crosses: beyond the tolerance")
        return to_picture(
            figure,
            name,
            title=explanation_title(explanation),
            description=f"The error of {len(points)} intermediate values, layer by layer, as a multiple of the "
            f"tolerance of each; {len(failing)} are beyond it, drawn as crosses."
            + (f" The first is {failing[0]}." if failing else ""),
        )


def _places(layers: Sequence[int | None]) -> list[float]:
    """Return the position of each value: side by side within a layer, others before the first or after the last."""
    numbered = [layer for layer in layers if layer is not None]
    last = max((number for number, layer in enumerate(layers) if layer is not None), default=-1)
    columns = [
        layer if layer is not None else (-1 if number < last else max(numbered, default=0) + 1)
        for number, layer in enumerate(layers)
    ]
    counts, seen = Counter(columns), Counter[int]()
    places = []
    for column in columns:
        places.append(column + 0.8 * seen[column] / counts[column])
        seen[column] += 1
    return places


def _excess_axis(axes: Axes, most: float) -> None:
    """Label multiples of the tolerance by powers of ten, and mark the tolerance."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_yscale("log")
    axes.set_ylim(LEAST_SHARE / 1.5, most * 1.5)
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
    axes.minorticks_off()
    axes.axhline(1, color=INK, linestyle="--", linewidth=1.4)
    axes.set_ylabel("times the tolerance")
