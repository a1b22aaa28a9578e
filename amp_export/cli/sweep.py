"""The command `sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import Without, command, examples
from amp_export.cli.options import DEFAULT_MODEL, Json, Model, Output, Overwrite, Revision
from amp_export.cli.point_options import MaybeRatios, Ray, ResumePoints
from amp_export.verb_options import BenchmarkOptions, ExportOptions, PruneOptions, SweepOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export sweep --model demo --ratios 0.1:0.5:0.1 --output swept",
    'amp-export sweep --model demo --until "decode_ms<=35 and perplexity<=1.2x" --output swept',
    'amp-export sweep --model demo --ratios 0.05:0.4:0.05 --until "size_mb<=0.8x" --output swept --resume',
    "amp-export sweep --model demo --weights int4 --draft --output swept",
)


@command
def sweep(  # noqa: PLR0913  a command has a parameter for each option that is not of an options object
    console: Console,
    *,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    output: Output,
    ratios: MaybeRatios = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="CONDITIONS",
            help="Search the ratio that meets conditions, joined by and, on decode_ms, prefill_ms, perplexity, "
            "parameters, size_mb and ratio; a limit with x is times dense. Exit code 1 if none does.",
        ),
    ] = None,
    draft: Annotated[
        bool,
        typer.Option(
            "--draft",
            help="Measure each point as a draft for the dense model in onnxruntime-genai, too; without --ratios and "
            "--until, search the ratio of the fastest.",
        ),
    ] = False,
    prune: Annotated[PruneOptions, Without(("ratio", "plan", "scores"))],
    export: Annotated[ExportOptions, Without(("target",))],
    benchmark: Annotated[BenchmarkOptions, Without(("against", "to", "runtime", "provider", "cuda_graph"))],
    overwrite: Overwrite = False,
    resume: ResumePoints = False,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Prune and export a model at several ratios, measure each, and find the best, or the one that meets conditions."""
    from amp_export.api.sweep import sweep as run
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_points import show_points
    from amp_export.sweeping.ratios import read_ratios

    options = SweepOptions(
        ratios=() if ratios is None else read_ratios(ratios),
        until=until,
        draft=draft,
        prune=prune,
        export=export,
        benchmark=benchmark,
        ray=ray,
    )
    table = run(
        model,
        output,
        options,
        revision=revision,
        overwrite=overwrite,
        resume=resume,
        progress=ConsoleProgress(console),
    )
    show_points(console, table, output, as_json=as_json)
