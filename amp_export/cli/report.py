"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export.cli.gates import Checks, ThresholdsOption
from amp_export.cli.options import Json
from amp_export.cli.running import examples, run_and_show, run_command
from amp_export.options import ReportFormat

if TYPE_CHECKING:
    from amp_export.reporting.report import Report

EXAMPLES = examples(
    "amp-export report out",
    "amp-export report out --format html --format xml",
    "amp-export report out --thresholds amp-export.toml",
    "amp-export report out-old out-new",
)


def report(
    outputs: Annotated[
        list[Path],
        typer.Argument(metavar="OUT", help="What an earlier command wrote; of several, the baseline first."),
    ],
    formats: Annotated[
        list[ReportFormat] | None,
        typer.Option("--format", help="Write OUT/report.FORMAT anew; may be given several times."),
    ] = None,
    across_models: Annotated[
        bool, typer.Option("--across-models", help="Compare outputs of different models, too.")
    ] = False,
    thresholds: ThresholdsOption = None,
    as_json: Json = False,
) -> None:
    """Show a report again, write it as a page or for CI, or compare several; exit code 1 if parity or a check fails."""
    if len(outputs) > 1:
        if formats or thresholds is not None:
            name = "--format" if formats else "--thresholds"
            raise typer.BadParameter("it is for the report of one output, and several are compared.", param_hint=name)
        _compare(outputs, across_models=across_models, as_json=as_json)
        return
    (output,) = outputs

    def work(_: Any) -> Report:
        from amp_export.reporting.report import Report

        return Report.load(output)

    def write(console: Any, report: Report) -> None:
        if not formats:
            return
        from amp_export.outputs.manifest import Manifest
        from amp_export.reporting.files import report_file, write_forms

        # what is written of checks must be in report.json too, from which other forms are written later
        forms = dict.fromkeys([*formats, *([ReportFormat.JSON] if thresholds is not None else [])])
        write_forms(output, report, Manifest.load(output), list(forms))
        for form in forms:
            console.print(f"Written: {report_file(output, form)}", soft_wrap=True)

    run_and_show(work, as_json=as_json, written=None, checks=lambda: Checks(output, thresholds=thresholds), write=write)


def _compare(outputs: list[Path], *, across_models: bool, as_json: bool) -> None:
    def work(console: Any) -> None:
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

    run_command(work)
