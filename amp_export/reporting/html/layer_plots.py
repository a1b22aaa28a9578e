"""Plots of the layers: the counts that each keeps, and the importance of kept and removed units.

Removed units are marked by a pattern or a symbol, never by colour only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amp_export.architectures import PrunedUnit
from amp_export.reporting.html.svg import GREY, INK, PRUNED, WHITE, Picture, drawing, to_picture
from amp_export.reporting.layers import LayerCounts, Units

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

BINS = 48
"""Maximum number of bins of a layer's neurons: as many as can be distinguished on a phone."""

TITLES = {PrunedUnit.QUERY_HEADS: "Query", PrunedUnit.KEY_VALUE_HEADS: "Key/value", PrunedUnit.NEURONS: "Neurons"}

ROW = 9.0
"""Height of one layer in points."""

HEAD_LIMITS, NEURON_LIMITS = (0.5, 2.0), (0.5, 4.0)
"""Range of importance with distinct shades, in medians of a layer; values beyond it have the shade of its end."""

TICKS = {0.5: "½", 1: "1", 2: "2", 4: "4"}


def shown_units(layers: Sequence[LayerCounts]) -> list[PrunedUnit]:
    """Return the units that get a column; KV heads get none if every query head has its own."""
    shared = any(
        widths.query_heads != widths.key_value_heads for layer in layers for widths in (layer.dense, layer.kept)
    )
    return [unit for unit in PrunedUnit if shared or unit is not PrunedUnit.KEY_VALUE_HEADS]


def kept_picture(layers: Sequence[LayerCounts]) -> Picture:
    """Draw the numbers of heads and neurons that each layer keeps and loses."""
    with drawing(_height(len(layers)) + 30) as figure:
        units = shown_units(layers)
        all_axes = figure.subplots(1, len(units), sharey=True, squeeze=False)[0]
        rows = range(len(layers))
        for axes, unit in zip(all_axes, units, strict=True):
            kept = [layer.kept.of(unit) for layer in layers]
            removed = [layer.dense.of(unit) - left for layer, left in zip(layers, kept, strict=True)]
            most = max(layer.dense.of(unit) for layer in layers)
            axes.barh(rows, kept, height=0.8, color=PRUNED, label="kept")
            axes.barh(
                rows, removed, left=kept, height=0.8, color=WHITE, edgecolor=GREY, hatch="//////", label="removed"
            )
            axes.set_title(TITLES[unit])
            axes.set_xlim(0, most)
            axes.set_xticks([0, most], labels=["0", str(most)], ha="right")
            axes.get_xticklabels()[0].set_ha("left")
        _layer_axis(all_axes[0], [layer.label for layer in layers])
        _legend(figure, all_axes[0])
        return to_picture(
            figure,
            "kept",
            title="What each layer keeps",
            description=f"For each layer a bar of {', '.join(unit.value.replace('_', ' ') for unit in units)}: solid "
            "is kept, hatched is removed. The table below has the numbers.",
        )


def heads_picture(layers: Sequence[LayerCounts], heads: Sequence[Units]) -> Picture:
    """Draw the importance of each head, layers by heads, with removed heads crossed out."""
    import numpy as np

    cells = np.full((len(heads), max(len(units.importance) for units in heads)), np.nan)
    for row, units in zip(cells, heads, strict=True):
        row[: len(units.importance)] = units.importance
    with drawing(_height(len(layers)) + 60) as figure:
        axes = figure.subplots()
        _heat_map(figure, axes, cells, HEAD_LIMITS, extent=(-0.5, cells.shape[1] - 0.5, len(cells) - 0.5, -0.5))
        crossed = [(head, row) for row, units in enumerate(heads) for head in np.flatnonzero(~units.kept)]
        if crossed:
            across, down = zip(*crossed, strict=True)
            axes.scatter(across, down, marker="x", s=26, color=INK, linewidths=3)
            axes.scatter(across, down, marker="x", s=22, color=WHITE, linewidths=1.4, label="removed")
        axes.set_xlabel("query head" + (", crossed out: removed" if crossed else ", none removed"))
        axes.locator_params(axis="x", nbins=9, integer=True)
        _layer_axis(axes, [layer.label for layer in layers])
        return to_picture(
            figure,
            "heads",
            title="Importance of attention heads",
            description=f"A heat map with a row for each of {len(heads)} layers and a column for each query head. "
            f"{len(crossed)} of {sum(len(units.kept) for units in heads)} heads are crossed out: they were removed. "
            f"{_weighed(heads, 'heads')}",
        )


def neurons_picture(layers: Sequence[LayerCounts], neurons: Sequence[Units]) -> Picture | None:
    """Draw the importance of neurons, sorted and binned by layer, removed ones hatched; None without neurons."""
    import numpy as np

    present = [(layer, units) for layer, units in zip(layers, neurons, strict=True) if len(units.importance)]
    if not present:
        return None
    cells = np.stack([_binned(units) for _, units in present])
    shares = np.array([100 * units.kept.mean() for _, units in present])
    with drawing(_height(len(present)) + 60) as figure:
        axes = figure.subplots()
        _heat_map(figure, axes, cells, NEURON_LIMITS, extent=(0, 100, len(cells) - 0.5, -0.5))
        edges = np.append(np.arange(len(cells)) - 0.5, len(cells) - 0.5)
        steps = np.append(shares, shares[-1])
        axes.fill_betweenx(
            edges, steps, 100, step="post", facecolor="none", edgecolor=WHITE, hatch="xxxx", linewidth=0.0
        )
        axes.step(steps, edges, where="pre", color=INK, linewidth=3.2)
        axes.step(steps, edges, where="pre", color=WHITE, linewidth=1.4)
        axes.set_xlabel("% of neurons; hatched: removed")
        axes.set_xlim(0, 100)
        _layer_axis(axes, [layer.label for layer, _ in present])
        return to_picture(
            figure,
            "neurons",
            title="Importance of neurons",
            description=f"A heat map with a row for each of {len(cells)} layers, its neurons sorted from the most to "
            f"the least important. A line parts those kept, on the left, from those removed, hatched on the right: "
            f"the layers keep {shares.min():.0f} to {shares.max():.0f} %. {_weighed(neurons, 'neurons')}",
        )


def _weighed(layers: Sequence[Units], what: str) -> str:
    """Return a sentence with the mean importance of removed and of kept units."""
    import numpy as np

    importance = np.concatenate([units.importance for units in layers])
    kept = np.concatenate([units.kept for units in layers])
    if kept.all():
        return f"No {what} were removed."
    removed_mean, kept_mean = importance[~kept].mean(), importance[kept].mean()
    return f"Those removed have {removed_mean:.2f} times the median importance on average, those kept {kept_mean:.2f}."


def _binned(units: Units) -> Floats:
    """Return the mean importance of a layer's neurons in equal bins, [bins]: kept ones first, each part sorted."""
    import numpy as np

    order = np.lexsort((-units.importance, ~units.kept))
    bins = min(BINS, len(order))
    return np.array([part.mean() for part in np.array_split(units.importance[order], bins)])


def _heat_map(
    figure: Figure,
    axes: Axes,
    cells: Floats,
    limits: tuple[float, float],
    *,
    extent: tuple[float, float, float, float],
) -> None:
    """Draw importance as shades that grow lighter monotonically, so that they can be distinguished without colour."""
    from matplotlib.colors import LogNorm

    image = axes.imshow(
        cells, cmap="viridis", norm=LogNorm(*limits), aspect="auto", interpolation="none", extent=extent
    )
    bar = figure.colorbar(image, ax=axes, location="top", extend="both", aspect=40, pad=0.01)
    ticks = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
    bar.set_ticks(ticks, labels=[TICKS[tick] for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label("importance, in medians of its layer")


def _layer_axis(axes: Axes, labels: Sequence[str]) -> None:
    """Label layers from top to bottom: the first of each stack, and as many of the others as there is room for."""
    numbers = [int(label.split()[-1]) for label in labels]
    every = 2 if len(labels) < 12 else 5
    named = [row for row, number in enumerate(numbers) if number == 0]
    for row, number in enumerate(numbers):
        if number % every == 0 and all(abs(row - other) > 1 for other in named):
            named.append(row)
    axes.set_yticks(named, labels=[labels[row] for row in named])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_ylabel("layer")


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)


def _height(layers: int) -> float:
    return ROW * max(layers, 4) + 70
