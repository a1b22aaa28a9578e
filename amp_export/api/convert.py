"""The whole way: prune, export, validate, benchmark, report, and one directory that holds the result."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
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
from amp_export.exporting.engines import EngineOptions, check_precision
from amp_export.exporting.run import ExportResult, export_as
from amp_export.exporting.settings import ExportSettings, choose_settings
from amp_export.options import Format, Opset, Precision, Uniform, Via
from amp_export.outputs.names import PRUNED
from amp_export.outputs.staging import check_output, staged_output
from amp_export.parity.comparison import compare
from amp_export.parity.results import ParityReport
from amp_export.progress import Progress, Silent
from amp_export.pruning.pipeline import prepare, prune_into
from amp_export.reporting.files import save_report
from amp_export.reporting.report import Report, record_verdicts

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.pruning.settings import PlanSettings


@dataclass(frozen=True)
class ConvertOptions:
    """What the whole way needs beside the plan.

    Attributes:
        precision: The precision of the graph; by default float32, for an engine float16.
        opset: The version of the ONNX operators; by default the newest that the runtime takes.
        engine: What engine is built, where one is, and the largest batch and text of an ExecuTorch program.
        via: How the graph is made.
        calibration: A `.jsonl` or `.txt` file of prompts, or a `.npz` or `.safetensors` file with images or sounds.
        scores: Scores of an earlier run.
        plan: A plan file.
        uniform: What becomes of a plan that no stock config can say.
        allow_pickle: Whether weights may be read from torch pickles, where there are no others.
        threads: Threads of the runtime; by default one for each core.
        overwrite: Whether an earlier result may be replaced.
    """

    precision: Precision | None = None
    opset: Opset | None = None
    engine: EngineOptions | None = None
    via: Via = Via.AUTO
    calibration: Path | None = None
    scores: Path | None = None
    plan: Path | None = None
    uniform: Uniform = Uniform.RESIZE
    allow_pickle: bool = False
    threads: int | None = None
    overwrite: bool = False


def convert(
    model: str | Path,
    *,
    output: Path,
    settings: PlanSettings | None,
    to: Format = Format.ONNX,
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Prunes a model, exports it, checks parity, and measures what was gained.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        output: The output directory.
        settings: What plan is asked for; None where `options.plan` gives one.
        to: The format to export to.
        options: Everything else.
        progress: Where to show what is going on.

    Returns:
        The report, whether parity holds or not.

    Raises:
        AmpExportError: See `amp_export.errors`.
    """
    options = options or ConvertOptions()
    progress = progress or Silent()
    check_output(output, overwrite=options.overwrite)
    if to is not Format.TENSORRT:
        require(Setup(RUNTIMES[to]))
    if to is Format.ONNX and options.precision is Precision.BFLOAT16:
        raise RequestError(
            "ONNX Runtime's CPU provider has no bfloat16 arithmetic, so a bfloat16 graph can be neither checked nor "
            "measured here.\nRun the steps that can be done: amp-export prune, then amp-export export --dtype bfloat16."
        )
    request = prepare(
        model,
        settings,
        uniform=options.uniform,
        calibration=options.calibration,
        scores=options.scores,
        plan=options.plan,
        allow_pickle=options.allow_pickle,
        progress=progress,
    )
    choices = choose_settings(
        request.checkpoint, to, options.precision, options.opset, via=options.via, engine=options.engine
    )
    if choices.limits is not None:
        # what cannot be measured should not be found after both models were exported
        Sweep().workloads([request.checkpoint.config], [choices.limits])
    with staged_output(output, overwrite=options.overwrite) as folder:
        _, manifest = prune_into(folder, request, progress)
        pruned = open_checkpoint(folder / PRUNED)
        if choices.job is not None:
            check_precision(pruned, choices.precision, progress=progress)
        exported = export_as(folder, pruned, choices, progress=progress)
        parity, benchmark = _try_out(exported, pruned, request.checkpoint, choices, options, progress)
        benchmarks = {benchmark.name: benchmark} if benchmark is not None else None
        report = replace(Report.of(manifest), parity=parity, benchmarks=benchmarks)
        manifest = record_export(manifest, exported)
        manifest = record_verdicts(manifest, report).with_hashes(folder)
        save_report(folder, report, manifest, progress=progress)
    return report


def _try_out(
    exported: ExportResult,
    pruned: Checkpoint,
    dense: Checkpoint,
    choices: ExportSettings,
    options: ConvertOptions,
    progress: Progress,
) -> tuple[ParityReport | None, BenchmarkReport | None]:
    """Parity and gain, as far as they can be found out here.

    An engine for another GPU cannot be run here. The graph that it was built from can, but says nothing of its speed.
    """
    tried = exported
    if choices.job is not None and not choices.job.runs_here:
        if choices.precision is Precision.BFLOAT16:
            progress.note("Neither the engine nor its bfloat16 graph can be run here: check it on the device.")
            return None, None
        progress.note("The engine cannot be run here. The graph that it was built from is checked instead.")
        tried = replace(exported, folder=exported.folder.parent / Format.ONNX, format=Format.ONNX)
    parity = compare(pruned.path, tried.folder, threads=options.threads, progress=progress)
    if tried.format is not exported.format:
        return parity, None
    # the dense export is only needed to measure against, and is as large as the result: it does not stay
    scratch = exported.folder.parent / "dense"
    made = export_as(scratch, dense, replace(choices, via=exported.via), progress=progress, name="the dense model")
    with progress.step("Benchmarking dense against pruned") as advance:
        setup = Setup(RUNTIMES[exported.format], threads=options.threads)
        benchmark = benchmark_models(made.folder, exported.folder, setup=setup, on_progress=advance)
    shutil.rmtree(scratch)
    return parity, benchmark
