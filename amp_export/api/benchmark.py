"""The verb `benchmark`: dense against pruned on this machine, in one runtime."""

from __future__ import annotations

from pathlib import Path

from amp_export.benchmarking.comparison import ROUNDS, benchmark_models, read_limits
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.runners import require
from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.subjects import find_subjects
from amp_export.benchmarking.workloads import Sweep
from amp_export.checkpoints.reading import read_config
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import PRUNED
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import open_report, update_report


def benchmark(
    output: Path,
    *,
    setup: Setup | None = None,
    sweep: Sweep | None = None,
    against: Path | None = None,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Measures the gain of the pruned model in an output directory, and writes the result into its report.

    Args:
        output: What `export` or the whole run wrote.
        setup: What runs both models, and how; by default ONNX Runtime on the processor.
        sweep: How much is read and written; by default a prompt of 128 tokens, and 16 after it.
        against: The output directory to compare with; by default the dense model, exported for this.
        rounds: How many rounds to measure.
        progress: Where to show what is going on.

    Raises:
        OutputError: `output` holds nothing that could be compared.
        AmpExportError: See `benchmark_models`.
    """
    progress = progress or Silent()
    setup = setup or Setup()
    manifest = Manifest.load(output)
    earlier = open_report(output, manifest)
    require(setup)
    if (output / PRUNED).is_dir():
        # a workload that does not fit should not be found after the dense model was exported
        limits = read_limits(output / setup.format) if setup.format is not None else ()
        (sweep or Sweep()).workloads([read_config(output / PRUNED)[1]], limits)
    with (
        find_subjects(output, against, setup, manifest, progress) as (dense, pruned, chosen),
        progress.step(f"Benchmarking dense against pruned with {chosen.name}") as advance,
    ):
        report = benchmark_models(dense, pruned, setup=chosen, sweep=sweep, rounds=rounds, on_progress=advance)
    update_report(output, earlier, manifest, benchmarks={report.name: report}, progress=progress)
    return report
