"""The command `evaluate`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import command, examples
from amp_export.cli.options import Json, Revision
from amp_export.verb_options import EvaluateOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export evaluate out --tasks piqa.jsonl --tasks winogrande.jsonl",
    "amp-export evaluate out --tasks piqa --tasks hellaswag --tasks wikitext --limit 500",
    "amp-export evaluate out --perplexity text.txt --generate prompts.txt",
    "amp-export evaluate out --to onnx --tasks piqa.jsonl",
    "amp-export evaluate ./my-llama --against demo --tasks piqa.jsonl --limit 100 --json",
)


@command
def evaluate(
    console: Console,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|OUT|GRAPH",
            help="Model as for --model, OUT, whose pruned model is evaluated, or an export in it, such as out/onnx.",
        ),
    ],
    options: EvaluateOptions,
    further: Annotated[list[str] | None, typer.Argument(metavar="TASK", help="Further tasks, as for --tasks.")] = None,
    revision: Revision = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Do not repeat what an earlier run on OUT finished before it was stopped.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure quality on tasks, text and prompts, and whether it differs from another model, with intervals."""
    from amp_export.api.evaluate import evaluate as run
    from amp_export.cli.console import ConsoleProgress, print_json
    from amp_export.cli.show_evaluation import show_evaluation
    from amp_export.documents import to_json

    options = replace(options, tasks=(*options.tasks, *(further or ())))
    result = run(model, options, revision=revision, resume=resume, progress=ConsoleProgress(console))
    if as_json:
        print_json(to_json(result))
    else:
        show_evaluation(console, result)
