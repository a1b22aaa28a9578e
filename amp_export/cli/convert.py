"""The main command, `amp-export --to`, which runs all steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from amp_export._version import __version__
from amp_export.cli.commands import command, examples
from amp_export.cli.inspect_options import ArchitectureOption
from amp_export.cli.options import (
    DEFAULT_MODEL,
    DEFAULT_OUTPUT,
    DEFAULT_RATIO,
    ROUNDS,
    TIME_LIMIT,
    Json,
    MaybeModel,
    Output,
    Overwrite,
    Revision,
)
from amp_export.errors import RequestError
from amp_export.options import Format, TargetName
from amp_export.verb_options import ConvertOptions, ExportOptions, PruneOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export --to onnx --model demo --ratio 0.1 --output out",
    "amp-export --to onnx --model ./my-llama --ratio 0.3 --calibration prompts.jsonl -o out",
    "amp-export doctor --model demo --ratio 0.3",
)


def _print_version(show: bool) -> None:
    if show:
        typer.echo(f"amp-export {__version__}")
        raise typer.Exit


@command
def convert(  # noqa: PLR0913  a command has a parameter for each option that is not of an options object
    console: Console,
    *,
    context: typer.Context,
    to: Annotated[Format | None, typer.Option("--to", help="Run all steps, and export to this format.")] = None,
    model: MaybeModel = None,
    revision: Revision = None,
    output: Output = DEFAULT_OUTPUT,
    prune: PruneOptions,
    export: ExportOptions,
    target: Annotated[
        TargetName | None,
        typer.Option(
            "--target", metavar="DEVICE", help="Device that the widths suit, and that an engine is built for."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads of the runtime.  [default: all cores]")
    ] = None,
    rounds: ROUNDS = ConvertOptions.rounds,
    time_limit: TIME_LIMIT = ConvertOptions.time_limit,
    architecture: ArchitectureOption = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Run only the steps that an earlier run with these options did not finish.")
    ] = False,
    as_json: Json = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prune a transformer with AMP, export it, check the export, and measure the speedup.

    With --to, all steps run end to end; each step is also a command of its own.
    """
    del show_version
    if to is None:
        _explain_usage(context)
        return
    from amp_export.api.convert import convert as run
    from amp_export.architectures import using_facts
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_results import show_result

    if model is None:
        console.print(f"No --model given: taking {DEFAULT_MODEL}, SmolLM2-135M-Instruct.")
    if prune.ratio is None and prune.plan is None:
        prune = replace(prune, ratio=DEFAULT_RATIO)
        console.print(f"No --ratio given: taking {DEFAULT_RATIO}.")
    if target is not None and to is not Format.TENSORRT:
        export = replace(export, target=None)
    elif prune.plan is not None:
        # the target is the engine's alone: a plan fixes the widths
        prune = replace(prune, target=PruneOptions().target)
    options = ConvertOptions(prune=prune, export=export, threads=threads, rounds=rounds, time_limit=time_limit)
    with using_facts(architecture):
        report = run(
            model or DEFAULT_MODEL,
            output,
            options,
            revision=revision,
            overwrite=overwrite,
            resume=resume,
            progress=ConsoleProgress(console),
        )
    show_result(console, report, as_json=as_json, written=output)


def _explain_usage(context: typer.Context) -> None:
    """Print the help page, or raise an error if options are given without --to."""
    sources = (context.get_parameter_source(name) for name in context.params)
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        raise RequestError(
            "Missing option '--to', which runs all steps, or a command, which runs one step.\n"
            f"Try '{context.command_path} --help'."
        )
    typer.echo(context.get_help())
