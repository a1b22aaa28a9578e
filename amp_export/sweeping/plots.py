"""Plots of points: perplexity by ratio for each criterion, and perplexity against what a point costs.

Criteria differ in marker and line, never by colour only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amp_export.reporting.html.svg import BAD, GOOD, GREY, INK, PRUNED, WHITE, Picture, drawing, to_picture
from amp_export.sweeping.measures import MEASURES
from amp_export.sweeping.points import PointResult
from amp_export.sweeping.table import COSTS, PointTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (PRUNED, BAD, GOOD, INK)
MARKERS = "osD^vPX*<>"
LINES = ("-", "--", "-.", ":")

LOG_SCALE = 20
"""Perplexities that differ by more than this factor are drawn on a logarithmic axis."""

Style = Mapping[str, Any]


def _styles(criteria: Sequence[str]) -> dict[str, Style]:
    """Return marker, line and colour of each criterion."""
    looks = zip(itertools.cycle(MARKERS), itertools.cycle(COLOURS), itertools.cycle(LINES), strict=False)
    return {
        criterion: {"marker": marker, "color": colour, "linestyle": line}
        for criterion, (marker, colour, line) in zip(criteria, looks, strict=False)
    }


def by_ratio_picture(table: PointTable) -> Picture | None:
    """Draw perplexity over the removed share, a line for each criterion; None if perplexity was not measured."""
    results = _drawn(table, "perplexity")
    if not results:
        return None
    with drawing(330) as figure:
        axes = figure.subplots()
        criteria = list(dict.fromkeys(each.point.criterion.value for each in results))
        for criterion, style in _styles(criteria).items():
            found = [each for each in results if each.point.criterion == criterion]
            axes.plot(
                [100 * each.ratio for each in found],
                [each.numbers["perplexity"] for each in found],
                label=criterion,
                markersize=7,
                **style,
            )
        axes.axhline(results[0].dense["perplexity"], color=GREY, linestyle=":", linewidth=1.4, label="dense")
        _perplexity_axis(axes, results)
        axes.set_xlabel("% of all parameters removed")
        figure.legend(loc="outside upper left", ncols=3)
        said = ", ".join(f"{each.name} {MEASURES['perplexity'].show(each.numbers['perplexity'])}" for each in results)
        return to_picture(
            figure,
            "by-ratio",
            title="Perplexity by ratio",
            description=f"Lines of perplexity over the removed share: {said}.",
        )


def cost_picture(table: PointTable, cost: str) -> Picture | None:
    """Draw perplexity against a cost, with a line through the Pareto front, and a ring around the chosen point.

    Returns:
        The picture; None if there is no point to draw.
    """
    results = _drawn(table, cost, "perplexity")
    if not results:
        return None
    places = {each.name: (each.times_dense(cost), each.numbers["perplexity"]) for each in results}
    with drawing(330) as figure:
        axes = figure.subplots()
        axes.plot(*_axis_by_axis(places, table.fronts[cost]), color=GREY, linewidth=1.6, label="Pareto front")
        criteria = list(dict.fromkeys(each.point.criterion.value for each in results))
        for criterion, style in _styles(criteria).items():
            found = [each for each in results if each.point.criterion == criterion]
            across = _axis_by_axis(places, [each.name for each in found])
            axes.plot(*across, label=criterion, **{**style, "linestyle": "none"}, markersize=7)
            for each in found:
                offset: dict[str, Any] = {"xytext": (5, 5), "textcoords": "offset points"}
                axes.annotate(f"{each.ratio:.0%}", places[each.name], in_layout=False, **offset)
        if table.judged is not None and table.judged.name in places:
            label = "chosen" if table.choice is not None and table.choice.met else "closest"
            ring = _axis_by_axis(places, [table.judged.name])
            axes.plot(*ring, marker="o", color=INK, fillstyle="none", markersize=15, linestyle="none", label=label)
        dense: dict[str, Any] = {
            "marker": "s",
            "color": GREY,
            "markerfacecolor": WHITE,
            "markersize": 8,
            "linestyle": "none",
        }
        axes.plot([1.0], [results[0].dense["perplexity"]], label="dense", **dense)
        _perplexity_axis(axes, results)
        axes.set_xlabel(f"{COSTS[cost]}, x dense")
        axes.margins(x=0.12, y=0.12)
        figure.legend(loc="outside upper left", ncols=3)
        said = ", ".join(f"{each.name}: x {each.times_dense(cost):.2f}" for each in results)
        return to_picture(
            figure,
            f"cost-{cost.replace('_', '-')}",
            title=f"Perplexity and {COSTS[cost]}",
            description=f"A point for each model, labelled with the removed share. {COSTS[cost].capitalize()}: {said}. "
            f"On the Pareto front: {', '.join(table.fronts[cost])}.",
        )


def _axis_by_axis(places: Mapping[str, tuple[float, float]], names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return the places of points along each axis; those that are not drawn have none."""
    drawn = [places[name] for name in names if name in places]
    return [across for across, _ in drawn], [up for _, up in drawn]


def _drawn(table: PointTable, *names: str) -> list[PointResult]:
    """Return the points whose numbers have a place on an axis."""
    return [each for each in table.points if all(math.isfinite(each.numbers.get(name, math.nan)) for name in names)]


def _perplexity_axis(axes: Axes, results: Sequence[PointResult]) -> None:
    shown = [*(each.numbers["perplexity"] for each in results), results[0].dense["perplexity"]]
    is_wide = max(shown) > LOG_SCALE * min(shown)
    if is_wide:
        axes.set_yscale("log")
    axes.set_ylabel(f"perplexity{', logarithmic' if is_wide else ''}")
