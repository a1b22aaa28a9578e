"""The command `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import command, examples
from amp_export.cli.options import DEFAULT_MODEL, Json, Model, Revision
from amp_export.verb_options import DoctorOptions, PlanChoices

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export doctor --model demo --ratio 0.3", "amp-export doctor --model demo --ratio 0.3 --target orin-nano"
)


@command
def doctor(
    console: Console,
    *,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    ratio: Annotated[
        float, typer.Option("--ratio", "-r", metavar="R", help="Share of all parameters to remove, between 0 and 1.")
    ] = 0.3,
    choices: PlanChoices,
    options: DoctorOptions,
    as_json: Json = False,
) -> None:
    """Show what a ratio would keep, which class can express it, what loads it, and whether it fits on a device."""
    from amp_export.api.diagnosing import diagnose
    from amp_export.cli.console import ConsoleProgress, print_json
    from amp_export.cli.show_diagnosis import show_diagnosis

    diagnosis = diagnose(model, ratio, choices, options, revision=revision, progress=ConsoleProgress(console))
    if as_json:
        print_json(diagnosis.to_json())
    else:
        show_diagnosis(console, diagnosis)
