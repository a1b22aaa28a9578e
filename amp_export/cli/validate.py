"""The command `validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export.cli.options import Json, OutArgument, ProviderOption, Threads, WhichExport
from amp_export.cli.running import examples, run_and_show
from amp_export.exporters import Provider
from amp_export.options import Format

if TYPE_CHECKING:
    from amp_export.reporting import Report

EXAMPLES = examples("amp-export validate out")


def validate(
    output: OutArgument,
    reference: Annotated[Path | None, typer.Option(metavar="CHECKPOINT", help="What was exported.")] = None,
    to: WhichExport = Format.ONNX,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check that an exported graph computes what its checkpoint computes; exit code 1 if it does not."""

    def work(console: Any) -> Report:
        from amp_export.console import ConsoleProgress
        from amp_export.reporting import Report
        from amp_export.validation import validate as run

        run(output, reference=reference, to=to, provider=provider, threads=threads, progress=ConsoleProgress(console))
        return Report.load(output)

    run_and_show(work, as_json=as_json, written=output)
