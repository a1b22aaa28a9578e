"""The command `benchmark`."""

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

EXAMPLES = examples("amp-export benchmark out")


def benchmark(
    output: OutArgument,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Output of another export.  [default: the dense model]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Interleaved rounds.")] = 20,
    to: WhichExport = Format.ONNX,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the gain of a pruned graph over the dense one, interleaved, with a confidence interval."""

    def work(console: Any) -> Report:
        from amp_export.benchmarking import benchmark as run
        from amp_export.console import ConsoleProgress
        from amp_export.reporting import Report

        run(
            output,
            against=against,
            rounds=rounds,
            to=to,
            provider=provider,
            threads=threads,
            progress=ConsoleProgress(console),
        )
        return Report.load(output)

    run_and_show(work, as_json=as_json, written=output)
