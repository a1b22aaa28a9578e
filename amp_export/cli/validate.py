"""The command `validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import command, examples
from amp_export.cli.gates import BaselineOption, Gates, ThresholdsOption, UpdateBaseline
from amp_export.cli.options import Json, MaybeOutArgument
from amp_export.errors import RequestError
from amp_export.verb_options import ValidateOptions

if TYPE_CHECKING:
    from rich.console import Console

    from amp_export.progress import Progress
    from amp_export.reporting.report import Report

EXAMPLES = examples(
    "amp-export validate out",
    "amp-export validate out --explain",
    "amp-export validate out --thresholds amp-export.toml --baseline baseline.json",
    "amp-export validate --onnx other.onnx --reference ./my-llama --explain",
)


@command
def validate(
    console: Console,
    options: ValidateOptions,
    output: MaybeOutArgument = None,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", metavar="GRAPH", help="Third-party graph, or its folder, instead of OUT."),
    ] = None,
    thresholds: ThresholdsOption = None,
    baseline: BaselineOption = None,
    update_baseline: UpdateBaseline = False,
    as_json: Json = False,
) -> None:
    """Check that an export computes what its checkpoint computes; exit code 1 if it does not."""
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_results import show_result

    progress = ConsoleProgress(console)
    gates = Gates(output, to=options.to, thresholds=thresholds, baseline=baseline, update_baseline=update_baseline)
    report = gates.check(_validate(output, onnx, options, progress))
    if output is not None and report.checks is not None:
        from amp_export.reporting.files import update_report

        update_report(output, checks=report.checks, progress=progress)
    show_result(console, report, as_json=as_json, written=output, note=gates.write_baseline(report))


def _validate(output: Path | None, onnx: Path | None, options: ValidateOptions, progress: Progress) -> Report:
    from amp_export.api.validate import validate as run
    from amp_export.parity.comparison import compare_third_party
    from amp_export.reporting.report import Report

    if onnx is not None:
        if output is not None or options.reference is None:
            raise RequestError("--onnx takes no OUT, and needs --reference CHECKPOINT.")
        return Report(model=str(onnx), parity=compare_third_party(onnx, options.reference, options, progress=progress))
    if output is None:
        raise RequestError("Name the OUT that an earlier command wrote, or a graph with --onnx.")
    run(output, options, progress=progress)
    return Report.load(output)
