"""Sections of the page about times, sizes and the memory bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.statistics import Timing
from amp_export.options import Phase
from amp_export.reporting.benchmarks import (
    benchmark_lines,
    measure_rows,
    noise_lines,
    roofline_line,
)
from amp_export.reporting.html.benchmark_plots import latency_picture, roofline_picture, sizes_picture, speedup_picture
from amp_export.reporting.html.elements import PageSection, Table
from amp_export.reporting.html.svg import Picture
from amp_export.reporting.wording import AnyBenchmark, both, milliseconds, phase_label, speedup_with_interval, timed

NOT_MEASURED = "Not measured. amp-export benchmark OUT measures it."


def latency_section(benchmark: BenchmarkReport | None) -> PageSection:
    """Return the section on the times of both models."""
    anchor, heading = "latency", "Latency: dense against pruned"
    if benchmark is None:
        return PageSection(anchor, heading, (NOT_MEASURED,))
    how, *_ = benchmark_lines(benchmark)
    lines = [how, *noise_lines(benchmark)]
    if Phase.PREFILL in benchmark.phases:
        lines.append("Prefill latency is the time to first token.")
    pictures = tuple(latency_pictures(benchmark, "latency"))
    return PageSection(anchor, heading, tuple(lines), pictures, (latency_table(benchmark, "Times"),))


def latency_pictures(benchmark: AnyBenchmark, anchor: str) -> Iterator[Picture]:
    """Yield a plot of all speedups, and plots of every sample of the primary workload."""
    yield speedup_picture(benchmark, f"{anchor}-gains")
    for phase, result in benchmark.phases.items():
        yield latency_picture(phase_label(phase, benchmark), result, f"{anchor}-{phase}")


def latency_table(benchmark: AnyBenchmark, caption: str) -> Table:
    """Return the statistics of both models' times, phase by phase."""
    headings = (
        "phase",
        "graph",
        "median",
        "90 %",
        "99 %",
        "CV",
        "tokens/s",
        "samples",
        "speedup",
        "95 % CI",
        "conclusion",
    )
    rows = []
    for label, _, result in timed(benchmark):
        for subject, times in both(result):
            speedup = ("", "", "")
            if subject == "pruned":
                low, high = result.interval
                speedup = (f"x {result.speedup:.2f}", f"{low:.2f} to {high:.2f}", result.conclusion)
            said = (milliseconds(seconds) for seconds in (times.median, times.p90, times.p99))
            counted = (f"{times.variation:.0%}", _rate(times), str(sum(map(len, times.samples))))
            rows.append((label, subject, *said, *counted, *speedup))
    return Table.of(caption, headings, rows, words=2)


def _rate(times: Timing) -> str:
    rate = times.tokens_per_second
    return f"{rate:.1f}" if rate else ""


def memory_section(benchmark: BenchmarkReport | None) -> PageSection:
    """Return the section on sizes, memory and load times."""
    anchor, heading = "memory", "Size and memory"
    if benchmark is None:
        return PageSection(anchor, heading, (NOT_MEASURED,))
    picture = sizes_picture(benchmark, "sizes")
    return PageSection(anchor, heading, (), (picture,), (memory_table(benchmark, "Size, memory and load time"),))


def memory_table(benchmark: AnyBenchmark, caption: str) -> Table:
    """Return the measures of each model as a whole."""
    rows = [(row.label, row.dense, row.pruned, row.change) for row in measure_rows(benchmark)]
    return Table.of(caption, ("", "dense", "pruned", "change"), rows)


def roofline_section(benchmark: BenchmarkReport | None) -> PageSection:
    """Return the section on decoding against the memory bound."""
    anchor, heading = "roofline", "Roofline: what the memory allows"
    if benchmark is None or benchmark.roofline is None:
        why = (
            NOT_MEASURED
            if benchmark is None
            else "Not measured. The roofline is computed for decoding with graphs and weights."
        )
        return PageSection(anchor, heading, (why,))
    read = (
        f"{subject} {(model.weight_bytes_per_token or 0) / 1e6:.0f} MB of weights and "
        f"{(model.cache_bytes_per_token or 0) / 1e6:.1f} MB of KV cache"
        for subject, model in both(benchmark)
    )
    line = roofline_line(benchmark)
    assert line is not None
    lines = (f"Read per token: {', '.join(read)}.", line)
    pictures = () if benchmark.bandwidth_bytes_per_second is None else (roofline_picture(benchmark, "roofline"),)
    return PageSection(anchor, heading, lines, pictures)


def runtimes_section(benchmarks: Mapping[str, BenchmarkReport]) -> PageSection:
    """Return the section that compares the models in several runtimes."""
    lines = ["Runtimes were measured one after the other: compare speedups within each rather than times across them."]
    rows = []
    for name, benchmark in benchmarks.items():
        lines += [f"{name}: {line}" for line in noise_lines(benchmark)]
        for label, _, result in timed(benchmark):
            dense, pruned = (milliseconds(times.median) for _, times in both(result))
            rate = _rate(result.pruned)
            rows.append((label, benchmark.runtime, dense, pruned, rate, speedup_with_interval(result)))
    headings = ("phase", "runtime", "dense", "pruned", "tokens/s, pruned", "speedup")
    # group rows by phase; the sort is stable, so runtimes keep their order
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    return PageSection(
        "runtimes", "Runtimes", tuple(lines), tables=(Table.of("Times by runtime", headings, rows, words=2),)
    )
