"""The command `generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import command, examples
from amp_export.cli.options import Json, Revision
from amp_export.verb_options import GenerateOptions

if TYPE_CHECKING:
    from rich.console import Console


EXAMPLES = examples(
    'amp-export generate out -p "Water boils when it is heated because"',
    'amp-export generate out --against dense --chat -p "Why is the sky blue?"',
    "amp-export generate out --prompts prompts.txt --temperature 0.7 --top-p 0.9 --seed 1 --json",
    "amp-export generate demo --chat -p - < question.txt",
)


@command
def generate(
    console: Console,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|OUT|GRAPH",
            help="Model as for --model, OUT, whose export runs, or an export in it, such as out/onnx.",
        ),
    ],
    options: GenerateOptions,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Write texts after prompts, on stdout as they come, or beside those of another model."""
    from amp_export.api.generate import generate as run
    from amp_export.cli.console import ConsoleProgress, print_json, write_out
    from amp_export.cli.show_generation import show_generation, show_speed
    from amp_export.documents import to_json

    # of several texts, which grow at the same time, none can be shown before it is complete
    is_shown_at_once = not as_json and len(options.prompt) == 1 and (options.prompts, options.against) == (None, None)
    result = run(
        model,
        options,
        revision=revision,
        progress=ConsoleProgress(console),
        on_text=(lambda _, piece: write_out(piece)) if is_shown_at_once else None,
    )
    if as_json:
        print_json(to_json(result))
    elif is_shown_at_once:
        write_out("\n")
    else:
        show_generation(result)
    show_speed(console, result)
