"""The command `export`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amp_export.cli.options import (
    DEFAULT_MODEL,
    AllowPickle,
    DtypeOption,
    EngineTarget,
    MaxBatch,
    MaxContext,
    Model,
    OpsetOption,
    Output,
    Overwrite,
    RuntimeOption,
    ViaOption,
)
from amp_export.cli.running import examples, run_command
from amp_export.options import Format, Via

EXAMPLES = examples("amp-export export --model out/pruned --to onnx --output out")


def export(
    output: Output,
    model: Model = DEFAULT_MODEL,
    to: Annotated[Format, typer.Option("--to", help="The format to export to.")] = Format.ONNX,
    dtype: DtypeOption = None,
    opset: OpsetOption = None,
    via: ViaOption = Via.AUTO,
    target: EngineTarget = None,
    runtime: RuntimeOption = None,
    max_batch: MaxBatch = 1,
    max_context: MaxContext = None,
    allow_pickle: AllowPickle = False,
    overwrite: Overwrite = False,
) -> None:
    """Export any checkpoint, pruned or not."""

    def work(console: Any) -> None:
        from amp_export.api.export import export as run
        from amp_export.cli.console import ConsoleProgress
        from amp_export.exporting.engines import EngineOptions

        result = run(
            model,
            output=output,
            to=to,
            precision=dtype,
            opset=opset,
            via=via,
            engine=EngineOptions(target, runtime, max_batch, max_context),
            allow_pickle=allow_pickle,
            overwrite=overwrite,
            progress=ConsoleProgress(console),
        )
        console.print(f"Written: {result.folder} ({result.bytes_on_disk / 1e6:.0f} MB)", soft_wrap=True)

    run_command(work)
