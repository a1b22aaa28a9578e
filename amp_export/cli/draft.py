"""The command `draft`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from amp_export.cli.commands import command, examples
from amp_export.cli.options import OutArgument, Overwrite
from amp_export.verb_options import DraftOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export draft out",
    "amp-export draft out --weights int4 --draft-tokens 3",
    "amp-export draft out --to gguf --weights q8_0",
)


@command
def draft(console: Console, output: OutArgument, options: DraftOptions, overwrite: Overwrite = False) -> None:
    """Put the dense and the pruned model of OUT together, for speculative decoding: the pruned one drafts."""
    from amp_export.api.draft import draft as run
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_results import show_draft

    drafted = run(output, options, overwrite=overwrite, progress=ConsoleProgress(console))
    show_draft(console, drafted)
    if drafted.measurement is not None and not drafted.measurement.same:
        raise typer.Exit(1)
