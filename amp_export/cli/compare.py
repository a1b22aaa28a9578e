"""The command `compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import Without, command, examples
from amp_export.cli.options import DEFAULT_MODEL, Json, Model, Output, Overwrite, Revision
from amp_export.cli.point_options import Ratios, Ray, ResumePoints
from amp_export.options import CriterionName
from amp_export.verb_options import CompareOptions, PruneOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples(
    "amp-export compare --model demo --criteria amp,wanda,flap --ratios 0.1,0.2 --output compared",
    "amp-export compare --model demo --criteria amp,flap --ratios 0.1:0.5:0.1 --no-compensate --output plain",
)


@command
def compare(  # noqa: PLR0913  a command has a parameter for each option that is not of an options object
    console: Console,
    *,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    output: Output,
    criteria: Annotated[
        str,
        typer.Option("--criteria", metavar="NAME,...", help=f"Criteria to compare: {', '.join(CriterionName)}."),
    ],
    ratios: Ratios,
    prune: Annotated[PruneOptions, Without(("ratio", "criterion", "plan", "scores"))],
    overwrite: Overwrite = False,
    resume: ResumePoints = False,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Prune a model by several criteria and to several ratios, and measure the quality that each leaves."""
    from amp_export.api.compare import compare as run
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_points import show_points
    from amp_export.sweeping.criteria import read_criteria
    from amp_export.sweeping.ratios import read_ratios

    options = CompareOptions(criteria=read_criteria(criteria), ratios=read_ratios(ratios), prune=prune, ray=ray)
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
