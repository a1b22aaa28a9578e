"""The command `export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.cli.commands import command, examples
from amp_export.cli.inspect_options import ArchitectureOption
from amp_export.cli.options import DEFAULT_MODEL, Model, Output, Overwrite, Revision
from amp_export.verb_options import ExportOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export export --model out/pruned --to onnx --output out",
    "amp-export export --model demo --weights int4 --average-bits 4.3 --rounding gptq --output small",
)


@command
def export(
    console: Console,
    *,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    output: Output,
    options: ExportOptions,
    architecture: ArchitectureOption = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a checkpoint, pruned or not."""
    from amp_export.api.export import export as run
    from amp_export.architectures import using_facts
    from amp_export.cli.console import ConsoleProgress

    progress = ConsoleProgress(console)
    with using_facts(architecture):
        result = run(model, output, options, revision=revision, overwrite=overwrite, progress=progress)
    console.print(f"Written: {result.folder} ({result.bytes_on_disk / 1e6:.0f} MB)", markup=False, soft_wrap=True)
