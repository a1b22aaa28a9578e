"""Predict the effects of a pruning ratio, also for types that nobody described."""

from __future__ import annotations

from pathlib import Path

from amp_export.discovery.learning import learn
from amp_export.doctor import diagnose as doctor
from amp_export.doctor.diagnose import Diagnosis
from amp_export.progress import Progress
from amp_export.verb_options import DoctorOptions, PlanChoices


def diagnose(
    model: str | Path,
    ratio: float,
    choices: PlanChoices | None = None,
    options: DoctorOptions | None = None,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Predict a pruned model's widths, class, runtimes and memory for a ratio, without reading weights.

    The facts of a type that nobody described are found out first, as `prune` would.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        ratio: Share of all parameters to remove.
        choices: Rules by which a plan is made.
        options: All other options.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        progress: Shows the download of a model.

    Raises:
        AmpExportError: See `amp_export.doctor.diagnose.diagnose`.
    """
    return doctor.diagnose(model, ratio, choices, options, revision=revision, learn=learn, progress=progress)
