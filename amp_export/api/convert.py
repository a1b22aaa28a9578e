"""Run all steps: prune, export, validate, benchmark and report, into one output directory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.api.export import record_export
from amp_export.benchmarking.comparison import benchmark_models
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.runners import require
from amp_export.benchmarking.setup import RUNTIMES, Setup
from amp_export.benchmarking.workloads import Sweep
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporting.engines import check_dtype
from amp_export.exporting.run import ExportResult, export_as
from amp_export.exporting.settings import ExportSettings, choose_settings
from amp_export.options import Dtype, Format
from amp_export.outputs.names import PRUNED
from amp_export.outputs.staging import check_output, staged_output
from amp_export.parity.comparison import compare
from amp_export.parity.results import ParityReport, bind
from amp_export.progress import Progress, Silent
from amp_export.pruning.pipeline import prepare, prune_into
from amp_export.reporting.files import save_report
from amp_export.reporting.report import Report, record_verdicts
from amp_export.verb_options import ConvertOptions, ExportOptions

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint


def convert(
    model: str | Path,
    output: Path,
    options: ConvertOptions,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Prune a model, export it, check parity, and measure the speedup.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        output: The output directory.
        options: Options of all steps.
        overwrite: Replace an earlier result.
        progress: Where to show progress.

    Returns:
        The report, whether parity holds or not.

    Raises:
        AmpExportError: See `amp_export.errors`.
    """
    progress = progress or Silent()
    check_output(output, overwrite=overwrite)
    _check_can_measure(options.export)
    request = prepare(model, options.prune, progress=progress)
    choices = choose_settings(request.checkpoint, options.export)
    if choices.limits is not None:
        # reject limits that the benchmark does not fit before exporting both models
        Sweep().workloads([request.checkpoint.config], [choices.limits])
    with staged_output(output, overwrite=overwrite) as folder:
        _, manifest = prune_into(folder, request, progress)
        pruned = open_checkpoint(folder / PRUNED)
        if choices.job is not None:
            check_dtype(pruned, choices.dtype, progress=progress)
        exported = export_as(folder, pruned, choices, progress=progress)
        manifest = record_export(manifest, exported).with_hashes(folder)
        parity, benchmark = _try_out(exported, pruned, request.checkpoint, choices, options.threads, progress)
        report = Report.of(manifest)
        if parity is not None:
            tried = Format.ONNX if benchmark is None else exported.format
            report = replace(report, parity=bind(parity, manifest.judged(tried)))
        if benchmark is not None:
            benchmark = replace(benchmark, judged=manifest.judged(exported.format))
            report = replace(report, benchmarks={benchmark.name: benchmark})
        save_report(folder, report, record_verdicts(manifest, report), progress=progress)
    return report


def _check_can_measure(options: ExportOptions) -> None:
    """Raise an error if the export cannot be validated and benchmarked here, before any work is done.

    Raises:
        MissingExtraError: The runtime is not installed.
        RequestError: The runtime cannot compute in this dtype.
    """
    if options.to is not Format.TENSORRT:
        require(Setup(RUNTIMES[options.to]))
    if options.to is Format.ONNX and options.dtype is Dtype.BFLOAT16:
        raise RequestError(
            "ONNX Runtime's CPU provider has no bfloat16 arithmetic, so a bfloat16 graph can be neither validated nor "
            "benchmarked here.\nRun the steps that work: amp-export prune, then amp-export export --dtype bfloat16."
        )


def _try_out(
    exported: ExportResult,
    pruned: Checkpoint,
    dense: Checkpoint,
    choices: ExportSettings,
    threads: int | None,
    progress: Progress,
) -> tuple[ParityReport | None, BenchmarkReport | None]:
    """Return the results of parity and benchmark; None for those that this machine cannot run.

    An engine for another GPU cannot run here. Its graph is checked instead, but does not show the engine's speed.
    """
    tried = exported
    if choices.job is not None and not choices.job.runs_here:
        if choices.dtype is Dtype.BFLOAT16:
            progress.note(
                "Neither the engine nor its bfloat16 graph can run on this machine. Check the engine on the device."
            )
            return None, None
        progress.note("The engine cannot run on this machine. Checking the graph that it was built from instead.")
        tried = replace(exported, folder=exported.folder.parent / Format.ONNX, format=Format.ONNX)
    parity = compare(pruned.path, tried.folder, threads=threads, progress=progress)
    if tried.format is not exported.format:
        return parity, None
    # the dense export is only needed for the benchmark, and is as large as the result, so it is removed
    scratch = exported.folder.parent / "dense"
    made = export_as(scratch, dense, replace(choices, via=exported.via), progress=progress, name="the dense model")
    with progress.step("Benchmarking dense against pruned") as advance:
        setup = Setup(RUNTIMES[exported.format], threads=threads)
        benchmark = benchmark_models(made.folder, exported.folder, setup=setup, on_progress=advance)
    shutil.rmtree(scratch)
    return parity, benchmark
