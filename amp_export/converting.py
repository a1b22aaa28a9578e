"""The whole way: prune, export, validate, benchmark, report, and one directory that holds the result."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.benchmarking import benchmark_graphs
from amp_export.checkpoints import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters import Opset, Precision
from amp_export.exporters.onnx import require_runtime
from amp_export.exporting import export_into
from amp_export.options import Format, Uniform, Via
from amp_export.outputs import check_output, staged_output
from amp_export.progress import Progress, Silent
from amp_export.pruning import PRUNED, prepare, prune_into
from amp_export.reporting import Report, record_verdicts
from amp_export.validation import compare

if TYPE_CHECKING:
    from amp_export.budgets import PlanSettings


@dataclass(frozen=True)
class ConvertOptions:
    """What the whole way needs beside the plan.

    Attributes:
        precision: The precision of the graph.
        opset: The version of the ONNX operators.
        via: How the graph is made.
        calibration: A `.jsonl` or `.txt` file of prompts, or a `.npz` or `.safetensors` file with images or sounds.
        scores: Scores of an earlier run.
        plan: A plan file.
        uniform: What becomes of a plan that no stock config can say.
        allow_pickle: Whether weights may be read from torch pickles, where there are no others.
        threads: Threads of the runtime; by default one for each core.
        overwrite: Whether an earlier result may be replaced.
    """

    precision: Precision = Precision.FLOAT32
    opset: Opset = Opset.OPSET_23
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
    require_runtime()
    if options.precision is Precision.BFLOAT16:
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
    with staged_output(output, overwrite=options.overwrite) as folder:
        _, manifest = prune_into(folder, request, progress)
        pruned = open_checkpoint(folder / PRUNED)
        exported = export_into(
            folder, pruned, to=to, precision=options.precision, opset=options.opset, via=options.via, progress=progress
        )
        parity = compare(pruned.path, exported.folder, threads=options.threads, progress=progress)
        # the dense graph is only needed to measure against, and is as large as the result: it does not stay
        scratch = folder / "dense"
        dense = export_into(
            scratch,
            request.checkpoint,
            to=to,
            precision=options.precision,
            opset=options.opset,
            via=exported.via,
            progress=progress,
            description="Exporting the dense model",
        )
        with progress.step("Benchmarking dense against pruned") as advance:
            benchmark = benchmark_graphs(dense.folder, exported.folder, threads=options.threads, on_progress=advance)
        shutil.rmtree(scratch)
        report = replace(Report.of(manifest), parity=parity.to_json(), benchmark=asdict(benchmark))
        report.save(folder)
        record_verdicts(manifest, report).with_export(to.value, options.precision.value, exported.via.value).save(
            folder
        )
    return report
