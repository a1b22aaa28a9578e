"""Plots of a benchmark: latency, speedups, memory, and decoding against the memory bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.options import Phase
from amp_export.reporting.benchmarks import MEASURES
from amp_export.reporting.html.svg import GREY, INK, PRUNED, WHITE, Picture, drawing, to_picture, write_above
from amp_export.reporting.wording import AnyBenchmark, both, megabytes, milliseconds, timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"dense": GREY, "pruned": PRUNED}
MARKERS = {"dense": "o", "pruned": "D"}

EDGE = 1.6
"""End of the time axis, as a multiple of the larger 90th percentile: outliers must not compress the rest."""

INTERVAL_EDGE = 2.0
"""End of the speedup axis, as a multiple of the largest speedup: of two launches an interval may end at a million."""

SHOWN_SAMPLES = 400
"""Maximum number of points per distribution; of more samples, every second, third, ... is drawn."""


def latency_picture(label: str, result: PhaseResult, name: str) -> Picture:
    """Draw every sample of both graphs in the order of measurement, with median and 10 to 90 % range."""
    limit = EDGE * max(times.p90 for _, times in both(result)) * 1e3
    beyond = 0
    with drawing(280) as figure:
        axes = figure.subplots()
        for row, (subject, times) in enumerate(both(result)):
            samples = [sample * 1e3 for round_samples in times.samples for sample in round_samples]
            beyond += sum(sample > limit for sample in samples)
            _distribution(axes, row, subject, samples, limit)
        axes.set_yticks([])
        axes.set_ylim(1.45, -0.7)
        axes.set_xlim(left=0, right=limit)
        over = f"; {beyond} beyond the right edge" if beyond else ""
        axes.set_xlabel(f"milliseconds{over}\nfrom top to bottom as measured; line: 10 to 90 %")
        said = "; ".join(
            f"{subject}: median {milliseconds(times.median)}, 90th percentile {milliseconds(times.p90)}, 99th "
            f"{milliseconds(times.p99)}"
            for subject, times in both(result)
        )
        return to_picture(
            figure,
            name,
            title=f"{label}: every sample",
            description=f"Each point is one measured time, from top to bottom in the order of measuring. {said}.",
        )


def _distribution(axes: Axes, row: int, subject: str, samples: Sequence[float], limit: float) -> None:
    import numpy as np

    shown = samples[:: math.ceil(len(samples) / SHOWN_SAMPLES)]
    heights = np.linspace(row - 0.36, row + 0.2, len(shown))
    colour, marker = COLOURS[subject], MARKERS[subject]
    axes.scatter(np.minimum(shown, limit), heights, s=9, marker=marker, color=colour, linewidths=0, alpha=0.75)
    low, median, high = np.quantile(samples, (0.1, 0.5, 0.9))
    axes.plot([low, high], [row + 0.32] * 2, color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.plot([median], [row + 0.32], marker="|", color=INK, markersize=12, markeredgewidth=2.6)
    write_above(axes, row - 0.44, f"{subject}: median {median:.1f}")


def speedup_picture(benchmark: AnyBenchmark, name: str) -> Picture:
    """Draw the speedup of every phase of every workload, with its interval."""
    results = [(label, result) for label, _, result in timed(benchmark)]
    limit = INTERVAL_EDGE * max(1.0, *(result.speedup for _, result in results))
    with drawing(44 * len(results) + 90) as figure:
        axes = figure.subplots()
        axes.axvline(1, color=INK, linestyle="--", linewidth=1.4)
        for row, (label, result) in enumerate(results):
            low, high = result.interval
            ends = [max(low, 0.0), min(high, limit)]
            axes.plot(ends, [row] * 2, color=PRUNED, linewidth=2.4)
            axes.scatter(ends[:1], [row], marker="|", s=120, color=PRUNED)
            axes.scatter(ends[1:], [row], marker="|" if high <= limit else ">", s=120, color=PRUNED)
            axes.plot([result.speedup], [row], marker="D", color=PRUNED, markersize=8)
            said = f"{label}: x {result.speedup:.2f} [{low:.2f}, {high:.2f}]"
            write_above(axes, row - 0.3, said)
        axes.set_ylim(len(results) - 0.4, -0.8)
        axes.set_yticks([])
        axes.spines.left.set_visible(False)
        shown = [min(end, limit) for _, result in results for end in (result.speedup, *result.interval)]
        axes.set_xlim(min(0.95, *shown) - 0.03, max(1.05, *shown) + 0.03)
        axes.set_xlabel("dense time over pruned time; dashed: no speedup")
        return to_picture(
            figure,
            name,
            title="Speedup with its 95 % interval",
            description="; ".join(
                f"{label}: x {result.speedup:.2f}, interval {result.interval[0]:.2f} to "
                f"{result.interval[1]:.2f}, {result.conclusion}"
                for label, result in results
            )
            + ". An interval that contains 1 is not a significant speedup.",
        )


def sizes_picture(benchmark: AnyBenchmark, name: str) -> Picture:
    """Draw the bytes of both models, one pair of bars per measure."""
    measures = {key: label for key, (label, show) in MEASURES.items() if show is megabytes}
    sizes: dict[str, dict[str, float]] = {}
    for key in measures:
        known = {name: size for name, model in both(benchmark) if (size := getattr(model, key, None)) is not None}
        if len(known) == 2:
            sizes[key] = known
    with drawing(62 * len(sizes) + 80) as figure:
        axes = figure.subplots()
        most = max(size for found in sizes.values() for size in found.values()) / 1e6
        for row, (key, found) in enumerate(sizes.items()):
            write_above(axes, row - 0.36, measures[key])
            for place, (subject, count) in zip((-0.13, 0.19), found.items(), strict=True):
                size = count / 1e6
                axes.barh(row + place, size, height=0.28, **_bar(subject), label=subject if row == 0 else None)
                axes.text(size + most / 60, row + place, f"{size:.0f}", va="center")
        axes.set_ylim(len(sizes) - 0.5, -0.7)
        axes.set_yticks([])
        axes.set_xlim(0, most * 1.14)
        axes.set_xlabel("MB")
        figure.legend(loc="outside upper left", ncols=2)
        said = "; ".join(
            f"{measures[key]}: {', '.join(f'{subject} {megabytes(count)}' for subject, count in found.items())}"
            for key, found in sizes.items()
        )
        return to_picture(figure, name, title="Size and memory", description=f"Bars: {said}.")


def roofline_picture(benchmark: BenchmarkReport, name: str) -> Picture:
    """Draw the share of the time per token that reading weights and KV cache takes at the measured bandwidth."""
    bandwidth = benchmark.bandwidth_bytes_per_second
    assert bandwidth is not None
    floors = {
        subject: ((model.weight_bytes_per_token or 0) + (model.cache_bytes_per_token or 0)) / bandwidth * 1e3
        for subject, model in both(benchmark)
    }
    medians = {subject: times.median * 1e3 for subject, times in both(benchmark.phases[Phase.DECODE])}
    with drawing(190) as figure:
        axes = figure.subplots()
        said = {
            subject: f"{subject}: {floors[subject]:.1f} of {medians[subject]:.1f} ms, "
            f"{floors[subject] / medians[subject]:.0%}"
            for subject in floors
        }
        for row, subject in enumerate(floors):
            floor, median = floors[subject], medians[subject]
            axes.barh(row, floor, height=0.42, color=COLOURS[subject])
            axes.barh(row, max(median - floor, 0), left=floor, height=0.42, color=WHITE, edgecolor=GREY, hatch="////")
            write_above(axes, row - 0.3, said[subject])
        axes.set_yticks([])
        axes.set_ylim(1.4, -0.7)
        axes.set_xlim(0, 1.04 * max(*medians.values(), *floors.values()))
        axes.set_xlabel("ms per token; solid: reading weights and KV cache")
        return to_picture(
            figure,
            name,
            title="Decoding against the memory bound",
            description="Bars: the time of one token, and the minimum time to read all weights and the KV "
            f"cache. {'; '.join(said.values())}.",
        )


def _bar(subject: str) -> dict[str, Any]:
    """Return the style of a bar: dense bars are hatched and pruned ones solid, so that they differ without colour."""
    if subject == "dense":
        return {"color": WHITE, "edgecolor": GREY, "hatch": "////"}
    return {"color": PRUNED, "edgecolor": PRUNED}
