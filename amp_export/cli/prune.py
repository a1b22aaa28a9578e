"""The command `prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.cli.commands import command, examples
from amp_export.cli.inspect_options import ArchitectureOption
from amp_export.cli.options import DEFAULT_MODEL, Model, Output, Overwrite, Revision
from amp_export.verb_options import PruneOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export prune --model demo --ratio 0.1 --output out",
    "amp-export prune --model demo --plan out/plan.json --output out2",
)


@command
def prune(
    console: Console,
    *,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    output: Output,
    options: PruneOptions,
    architecture: ArchitectureOption = None,
    overwrite: Overwrite = False,
) -> None:
    """Prune a model: write scores, plan, and a checkpoint that plain transformers loads."""
    from amp_export.api.prune import prune as run
    from amp_export.architectures import using_facts
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_results import show_pruning

    progress = ConsoleProgress(console)
    with using_facts(architecture):
        result = run(model, output, options, revision=revision, overwrite=overwrite, progress=progress)
    show_pruning(console, result)
