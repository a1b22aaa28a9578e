"""The verb `prune`: score, plan, slice, rewrite, and prove that the result is an ordinary checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.options import Allocation, HeadPolicy, PerLayer, TargetName, Uniform
from amp_export.outputs.names import PRUNED
from amp_export.outputs.staging import check_output, staged_output
from amp_export.progress import Progress, Silent
from amp_export.pruning.pipeline import PruneResult, prepare, prune_into
from amp_export.pruning.settings import PlanSettings
from amp_export.reporting.files import save_report
from amp_export.reporting.report import Report

if TYPE_CHECKING:
    pass


def prune(
    model: str | Path,
    *,
    output: Path,
    ratio: float | None = None,
    allocation: Allocation = Allocation.BALANCED,
    heads: HeadPolicy = HeadPolicy.AUTO,
    snap: int | None = None,
    target: TargetName = TargetName.CPU,
    heads_per_layer: PerLayer = PerLayer.UNIFORM,
    neurons_per_layer: PerLayer = PerLayer.UNIFORM,
    uniform: Uniform = Uniform.RESIZE,
    calibration: Path | None = None,
    scores: Path | None = None,
    plan: Path | None = None,
    allow_pickle: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Prunes a model and writes scores, plan and the pruned checkpoint.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        output: The output directory.
        ratio: Share of all parameters to remove; not with `plan`.
        allocation: How the budget is shared between heads and neurons.
        heads: Which heads may go.
        snap: Kept neurons are a multiple of this.
        target: The kind of device, which decides the default of `snap`.
        heads_per_layer: Whether all layers keep as many heads.
        neurons_per_layer: Whether all layers keep as many neurons.
        uniform: What becomes of a plan that no stock config can say.
        calibration: A `.jsonl` or `.txt` file of prompts, or a `.npz` or `.safetensors` file with images or sounds.
        scores: Scores of an earlier run, which spare the calibration pass.
        plan: A plan file, perhaps changed by hand.
        allow_pickle: Whether weights may be read from torch pickles, where there are no others.
        overwrite: Whether an earlier result may be replaced.
        progress: Where to show what is going on.

    Raises:
        AmpExportError: See `amp_export.errors`.
    """
    progress = progress or Silent()
    check_output(output, overwrite=overwrite)
    settings = None
    if ratio is not None:
        settings = PlanSettings(ratio, allocation, heads, snap, target, heads_per_layer, neurons_per_layer)
    request = prepare(
        model,
        settings,
        uniform=uniform,
        calibration=calibration,
        scores=scores,
        plan=plan,
        allow_pickle=allow_pickle,
        progress=progress,
    )
    with staged_output(output, overwrite=overwrite) as folder:
        result, manifest = prune_into(folder, request, progress)
        save_report(folder, Report.of(manifest), manifest.with_hashes(folder), progress=progress)
    return replace(result, folder=output / PRUNED)
