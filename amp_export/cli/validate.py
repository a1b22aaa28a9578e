"""The command `validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export.cli.gates import BaselineOption, Checks, ThresholdsOption, UpdateBaseline
from amp_export.cli.options import Json, ProviderOption, Threads, WhichExport
from amp_export.cli.running import examples, run_and_show
from amp_export.options import Format, Provider

if TYPE_CHECKING:
    from amp_export.reporting.report import Report

EXAMPLES = examples(
    "amp-export validate out",
    "amp-export validate out --explain",
    "amp-export validate out --thresholds amp-export.toml --baseline baseline.json",
    "amp-export validate --onnx other.onnx --reference ./my-llama --explain",
)


def validate(
    output: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="What an earlier command wrote.")] = None,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", metavar="GRAPH", help="Another exporter's graph, or its folder, instead of OUT."),
    ] = None,
    reference: Annotated[Path | None, typer.Option(metavar="CHECKPOINT", help="What was exported.")] = None,
    cases: Annotated[
        Path | None, typer.Option("--cases", metavar="FILE", help="What to run, as JSON.  [default: cases of its kind]")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Look within graph and model, and name the first layer that differs.")
    ] = False,
    to: WhichExport = Format.ONNX,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = None,
    thresholds: ThresholdsOption = None,
    baseline: BaselineOption = None,
    update_baseline: UpdateBaseline = False,
    as_json: Json = False,
) -> None:
    """Check that an exported graph computes what its checkpoint computes; exit code 1 if it does not."""

    def checks() -> Checks:
        return Checks(output, to=to, thresholds=thresholds, baseline=baseline, update_baseline=update_baseline)

    def work(console: Any) -> Report:
        from amp_export.cli.console import ConsoleProgress
        from amp_export.errors import RequestError
        from amp_export.reporting.report import Report

        progress = ConsoleProgress(console)
        if onnx is not None:
            from amp_export.parity.comparison import compare_foreign

            if output is not None or reference is None:
                raise RequestError("--onnx takes no OUT, and needs --reference CHECKPOINT.")
            parity = compare_foreign(
                onnx,
                reference=reference,
                cases=cases,
                explain=explain,
                threads=threads,
                provider=provider,
                progress=progress,
            )
            return Report(model=str(onnx), parity=parity)
        if output is None:
            raise RequestError("Name the OUT that an earlier command wrote, or a graph with --onnx.")
        from amp_export.api.validate import validate as run

        run(
            output,
            to=to,
            reference=reference,
            cases=cases,
            explain=explain,
            threads=threads,
            provider=provider,
            progress=progress,
        )
        return Report.load(output)

    def write(console: Any, report: Report) -> None:
        if output is not None and report.checks is not None:
            from amp_export.cli.console import ConsoleProgress
            from amp_export.outputs.manifest import Manifest
            from amp_export.reporting.files import save_report

            save_report(output, report, Manifest.load(output), progress=ConsoleProgress(console))

    run_and_show(work, as_json=as_json, written=output, checks=checks, write=write)
