"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import command, examples
from amp_export.cli.gates import Gates, ThresholdsOption
from amp_export.cli.options import Json
from amp_export.options import ReportFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from amp_export.reporting.report import Report

EXAMPLES = examples(
    "amp-export report out",
    "amp-export report out --format html --format xml",
    "amp-export report out --thresholds amp-export.toml",
    "amp-export report out-old out-new",
)


@command
def report(
    console: Console,
    outputs: Annotated[
        list[Path],
        typer.Argument(metavar="OUT", help="Output directories of earlier commands; of several, the baseline first."),
    ],
    formats: Annotated[
        list[ReportFormat] | None,
        typer.Option("--format", help="Write OUT/report.FORMAT again; may be given several times."),
    ] = None,
    across_models: Annotated[
        bool, typer.Option("--across-models", help="Compare outputs of different models, too.")
    ] = False,
    thresholds: ThresholdsOption = None,
    as_json: Json = False,
) -> None:
    """Show a report, write it as a page or for CI, or compare several; exit code 1 if parity or a gate fails."""
    from amp_export.cli.show_results import show_result
    from amp_export.outputs.manifest import Manifest
    from amp_export.reporting.report import Report

    if len(outputs) > 1:
        if formats or thresholds is not None:
            name = "--format" if formats else "--thresholds"
            raise typer.BadParameter("it is for the report of one output, and several are compared.", param_hint=name)
        _compare(console, outputs, across_models=across_models, as_json=as_json)
        return
    (output,) = outputs
    gates = Gates(output, thresholds=thresholds)
    report = Report.load(output)
    Manifest.load(output).verify(output)
    found = gates.check(report)
    if formats:
        # results of gates must be in report.json too, from which other formats are written later
        forms = [*formats, *([ReportFormat.JSON] if thresholds is not None else [])]
        _write(console, output, found, list(dict.fromkeys(forms)))
    show_result(console, found, as_json=as_json, written=None)


def _write(console: Console, output: Path, report: Report, forms: Sequence[ReportFormat]) -> None:
    from amp_export.outputs.manifest import Manifest
    from amp_export.outputs.scratch import lock_output
    from amp_export.reporting.files import report_file, write_forms

    with lock_output(output):
        write_forms(output, report, Manifest.load(output), forms)
    for form in forms:
        console.print(f"Written: {report_file(output, form)}", markup=False, soft_wrap=True)


def _compare(console: Console, outputs: Sequence[Path], *, across_models: bool, as_json: bool) -> None:
    from amp_export.cli.console import print_json
    from amp_export.cli.show_comparison import show_comparison
    from amp_export.reporting.comparison import compare_outputs

    comparison = compare_outputs(outputs, across_models=across_models)
    if as_json:
        print_json(comparison.to_json())
    else:
        show_comparison(console, comparison)
    if not comparison.holds:
        raise typer.Exit(1)
