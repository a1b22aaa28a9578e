"""The command `benchmark`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export.cli.options import Against, Json, OutArgument, Threads
from amp_export.cli.running import examples, run_and_show

if TYPE_CHECKING:
    from amp_export.reporting import Report

EXAMPLES = examples("amp-export benchmark out")


def benchmark(
    output: OutArgument,
    against: Against = None,
    rounds: Annotated[int, typer.Option(min=2, help="Interleaved rounds.")] = 20,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the gain of a pruned graph over the dense one, interleaved, with a confidence interval."""

    def work(console: Any) -> Report:
        from amp_export.benchmarking import benchmark as run
        from amp_export.console import ConsoleProgress
        from amp_export.reporting import Report

        run(output, against=against, rounds=rounds, threads=threads, progress=ConsoleProgress(console))
        return Report.load(output)

    run_and_show(work, as_json=as_json, written=output)
