"""The command `inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.cli.commands import command, examples
from amp_export.cli.options import DEFAULT_MODEL, Model, Revision
from amp_export.verb_options import InspectOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export inspect --model ./my-model",
    "amp-export inspect --model ./my-model --facts my_model.py",
    "amp-export inspect --model ./my-model --architecture my_model.py",
)


@command
def inspect(
    console: Console, *, model: Model = DEFAULT_MODEL, revision: Revision = None, options: InspectOptions
) -> None:
    """Find out how a model attends and which config fields say its sizes, and prove it on tiny random copies."""
    import typer

    from amp_export.api.inspecting import inspect as run
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_inspection import show_inspection

    inspection = run(model, options, revision=revision, progress=ConsoleProgress(console))
    show_inspection(console, inspection)
    if not inspection.holds:
        raise typer.Exit(1)
