"""Rows and sentences about a benchmark on this machine or on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from amp_export.benchmarking.results import BenchmarkReport, GpuRecord
from amp_export.benchmarking.sampling import Stop
from amp_export.benchmarking.statistics import Conclusion
from amp_export.options import Phase
from amp_export.reporting.wording import (
    AnyBenchmark,
    both,
    change,
    joules,
    megabytes,
    milliseconds,
    speedup_with_interval,
    timed,
)

MEASURES = {
    "bytes_on_disk": ("Size on disk", megabytes),
    "peak_memory_bytes": ("Peak memory", megabytes),
    "gpu_memory_bytes": ("GPU memory", megabytes),
    "load_seconds": ("Load time", milliseconds),
    "joules_per_decoded_token": ("Energy per token", joules),
}
"""Measures of a model as a whole, with label and format; a benchmark may lack some."""

LAUNCH_BOUND, FEW_TEXTS = 0.25, 32
"""Share of a GPU's memory bandwidth below which something else bounds the decoding of so few texts: kernels that only
read weights reach more than half of it, and computation for one text is a hundredth of what GPUs do in the meantime."""


@dataclass(frozen=True)
class PhaseRow:
    """One line of a summary: label, dense value, pruned value, and change."""

    label: str
    dense: str = ""
    pruned: str = ""
    change: str = ""


def benchmark_rows(benchmark: AnyBenchmark) -> Iterator[PhaseRow]:
    """Yield sizes, then times of every workload; for decoding, also tokens per second."""
    yield from measure_rows(benchmark)
    for label, phase, result in timed(benchmark):
        dense, pruned = result.dense, result.pruned
        yield PhaseRow(label, milliseconds(dense.median), milliseconds(pruned.median), speedup_with_interval(result))
        before, after = dense.tokens_per_second, pruned.tokens_per_second
        if phase is Phase.DECODE and before is not None and after is not None:
            yield PhaseRow("Tokens per second", f"{before:.1f}", f"{after:.1f}", change(before, after))


def measure_rows(benchmark: AnyBenchmark) -> Iterator[PhaseRow]:
    """Yield the measures of each model as a whole."""
    for key, (label, show) in MEASURES.items():
        dense, pruned = (getattr(model, key, None) for model in (benchmark.dense, benchmark.pruned))
        if dense is not None and pruned is not None:
            yield PhaseRow(label, show(dense), show(pruned), change(dense, pruned))


def benchmark_lines(benchmark: BenchmarkReport) -> Iterator[str]:
    """Yield sentences about how times were measured on this machine, their noise, the memory bound, and the GPU."""
    threads = f"{benchmark.threads} threads" if benchmark.threads else "on the GPU"
    threads += ", decoding by a CUDA graph" if benchmark.cuda_graph else ""
    yield (
        f"Times are medians of {benchmark.rounds} interleaved rounds, {benchmark.runtime}, {threads}, "
        f"{benchmark.clock}; in brackets the 95 % interval over {benchmark.launches} launches."
    )
    if benchmark.stop is not Stop.FIXED:
        yield f"No more launches were needed or made: {benchmark.stop} for effects of {benchmark.min_effect:.1%}."
    yield from noise_lines(benchmark)
    if (line := roofline_line(benchmark)) is not None:
        yield line
    if (line := launches_line(benchmark)) is not None:
        yield line
    if (gpu := benchmark.gpu) is not None:
        yield gpu_line(gpu)


def noise_lines(benchmark: AnyBenchmark) -> Iterator[str]:
    """Yield sentences about phases too noisy to conclude, and about launches whose times had not settled."""
    noisy = [
        f"{label} (dense {result.dense.variation:.0%}, pruned {result.pruned.variation:.0%})"
        for label, _, result in timed(benchmark)
        if result.conclusion == Conclusion.TOO_NOISY
    ]
    if noisy:
        yield (
            f"Too noisy to conclude: {'; '.join(noisy)}; in brackets the coefficient of variation. Stop other "
            "programs, or raise --time-limit."
        )
    if unsettled := benchmark.unsettled_launches:
        yield (
            f"In {unsettled} of {benchmark.launches} launches times had not settled within 5 % when measuring began."
        )


def roofline_line(benchmark: BenchmarkReport) -> str | None:
    """Return a sentence about the memory bound: the speedup that it allows, and the share of it that was realised."""
    if benchmark.roofline is None:
        return None
    roofline = benchmark.roofline
    low, high = roofline.interval
    line = (
        f"The removed bytes allow decoding to be x {roofline.allowed_gain:.2f} as fast; "
        f"{roofline.realised_gain:.0%} [{low:.0%}, {high:.0%}] of that was realised."
    )
    if benchmark.bandwidth_bytes_per_second is None:
        return line
    shares = ", ".join(f"{name} {model.bandwidth_share or 0:.0%}" for name, model in both(benchmark))
    bandwidth = benchmark.bandwidth_bytes_per_second / 1e9
    whose = "measured memory read bandwidth" if benchmark.gpu is None else "GPU's memory bandwidth"
    return f"{line} Share of the {whose} ({bandwidth:.1f} GB/s): {shares}."


def launches_line(benchmark: BenchmarkReport) -> str | None:
    """Return a sentence that launches of operators bound decoding, if neither bytes nor computation can."""
    if benchmark.gpu is None or benchmark.cuda_graph or benchmark.batch_size > FEW_TEXTS:
        return None
    shares = [model.bandwidth_share for _, model in both(benchmark)]
    found = [share for share in shares if share is not None]
    if len(found) < len(shares) or max(found) >= LAUNCH_BOUND:
        return None
    times = " and ".join(f"{1 / share:.1f}" for share in found)
    return (
        f"Launches of operators bound decoding: a step takes {times} times as long as reading its bytes would, dense "
        "and pruned. --cuda-graph replays steps without them, in ONNX Runtime, onnxruntime-genai and compiled PyTorch."
    )


def gpu_line(record: GpuRecord) -> str:
    """Return a sentence about the GPU, and its state before and after the benchmark."""
    gpu = record.gpu
    states = [
        f"{when} {_known(state.sm_clock_mhz, 'MHz')} of {_known(state.sm_clock_limit_mhz, 'MHz')}, memory "
        f"{_known(state.memory_clock_mhz, 'MHz')}, {_known(state.temperature_c, 'C')}, "
        f"{_known(state.power_watts, 'W')}{', slowed' if state.slowed_by else ''}"
        for when, state in (("before", record.before), ("after", record.after))
        if state is not None
    ]
    return f"GPU: {gpu.name}, driver {gpu.driver}; {'; '.join(states) or 'its state is unknown'}."


def _known(value: float | None, unit: str) -> str:
    return f"{value:.0f} {unit}" if value is not None else f"unknown {unit}"
