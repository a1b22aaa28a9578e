"""The command `recover`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import command, examples
from amp_export.cli.options import OutArgument
from amp_export.verb_options import RecoverOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export recover out --minutes 10",
    "amp-export recover out --text articles.jsonl --steps 2000 --windows-per-step 8",
    "amp-export recover out --method lora --text instructions.jsonl",
)


@command
def recover(
    console: Console,
    output: OutArgument,
    options: RecoverOptions,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run with the same options was stopped.")
    ] = False,
) -> None:
    """Train the pruned checkpoint of OUT: towards its dense model, which is not changed, or on instructions."""
    from amp_export.api.recover import recover as run
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_results import show_recovery

    show_recovery(console, run(output, options, resume=resume, progress=ConsoleProgress(console)), output)
