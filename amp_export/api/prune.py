"""Prune a checkpoint into an output directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from amp_export.discovery.learning import learn, record
from amp_export.outputs.names import PRUNED
from amp_export.outputs.staging import check_output, staged_output
from amp_export.progress import Progress, Silent
from amp_export.pruning.pipeline import PruneResult, prune_into
from amp_export.pruning.request import prepare
from amp_export.reporting.files import save_report
from amp_export.reporting.report import Report
from amp_export.verb_options import PruneOptions


def prune(
    model: str | Path,
    output: Path,
    options: PruneOptions | None = None,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Prune a model, and write scores, plan and the pruned checkpoint.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        output: The output directory.
        options: Options of pruning; a ratio or a plan is required.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        overwrite: Replace an earlier result.
        progress: Where to show progress.

    Raises:
        AmpExportError: See `amp_export.errors`.
    """
    progress = progress or Silent()
    check_output(output, overwrite=overwrite)
    request = prepare(model, options or PruneOptions(), revision=revision, learn=learn, progress=progress)
    with staged_output(output, overwrite=overwrite) as folder:
        result, manifest = prune_into(folder, request, progress)
        record(request.checkpoint.config.architecture, folder)
        save_report(folder, Report.of(manifest), manifest.with_missing_hashes(folder), progress=progress)
    return replace(result, folder=output / PRUNED)
