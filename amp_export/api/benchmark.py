"""Benchmark the dense model against the pruned one on this machine, in one runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from amp_export.benchmarking.comparison import benchmark_models, read_limits
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.runners import require
from amp_export.benchmarking.sampling import Sampling
from amp_export.benchmarking.setup import choose_setup
from amp_export.benchmarking.subjects import find_subjects, judged_part
from amp_export.benchmarking.workloads import Sweep
from amp_export.checkpoints.reading import read_config
from amp_export.exporters.onnx.capturing import check_capturable
from amp_export.options import Format
from amp_export.outputs.lookup import require_export
from amp_export.outputs.names import PRUNED
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import open_output, update_report
from amp_export.verb_options import BenchmarkOptions


def benchmark(
    output: Path, options: BenchmarkOptions | None = None, *, progress: Progress | None = None
) -> BenchmarkReport:
    """Measure the speedup of the pruned model in an output directory, and write the result into its report.

    Args:
        output: The output directory of `export` or `convert`.
        options: Options of the benchmark.
        progress: Where to show progress.

    Raises:
        OutputError: `output` contains no models to compare.
        RequestError: The options contradict one another, or a workload does not fit the models.
        AmpExportError: See `benchmark_models`.
    """
    options, progress = options or BenchmarkOptions(), progress or Silent()
    setup = choose_setup(options)
    sampling = Sampling(rounds=options.rounds, min_effect=options.min_effect, time_limit=options.time_limit)
    sweep = Sweep(options.batch, options.context, options.generate)
    manifest = open_output(output)
    require(setup)
    if setup.cuda_graph and setup.format is Format.ONNX:
        require_export(output, manifest, Format.ONNX, why=f", which {setup.runtime} runs")
        check_capturable(output / Format.ONNX)
    if (output / PRUNED).is_dir():
        # reject workloads that do not fit before exporting the dense model
        limits = read_limits(output / setup.format) if setup.format is not None else ()
        sweep.workloads([read_config(output / PRUNED)[1]], limits)
    with (
        find_subjects(output, options.against, setup, manifest, progress) as (dense, pruned, chosen),
        progress.step(f"Benchmarking dense against pruned with {chosen.name}") as advance,
    ):
        report = benchmark_models(dense, pruned, setup=chosen, sweep=sweep, sampling=sampling, on_progress=advance)
    report = replace(report, judged=manifest.judged(judged_part(output, setup)))
    update_report(output, benchmarks={report.name: report}, progress=progress)
    return report
