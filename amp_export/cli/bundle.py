"""The command `bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amp_export.cli.options import Against, OutArgument, Overwrite
from amp_export.cli.running import examples, run_command
from amp_export.options import Opset, TargetName

EXAMPLES = examples("amp-export bundle out --target orin-nano --max-context 1024")


def bundle(
    output: OutArgument,
    target: Annotated[TargetName, typer.Option("--target", help="The device that it goes to.")] = TargetName.CPU,
    max_batch: Annotated[int, typer.Option(metavar="N", help="The largest batch that engines take.")] = 1,
    max_context: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="The most tokens of a text.  [default: 2048, or the model's context if shorter]"
        ),
    ] = None,
    opset: Annotated[
        Opset | None,
        typer.Option("--opset", help="ONNX operators.  [default: what every TensorRT of the device takes]"),
    ] = None,
    against: Against = None,
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where it goes.  [default: OUT/bundle-TARGET.tar.gz]"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Pack graphs, references and scripts for a device, which builds, verifies and measures with `bash run.sh`."""

    def work(console: Any) -> None:
        from amp_export.cli.console import ConsoleProgress
        from amp_export.devices.bundle import bundle as run

        result = run(
            output,
            target=target,
            max_batch=max_batch,
            max_context=max_context,
            opset=opset,
            against=against,
            file=file,
            overwrite=overwrite,
            progress=ConsoleProgress(console),
        )
        console.print(
            f"Written: {result.file}, {result.bytes / 1e6:.0f} MB, unpacked {result.unpacked_bytes / 1e6:.0f} MB.",
            soft_wrap=True,
        )
        console.print("On the device: unpack it, and there `bash run.sh`.", soft_wrap=True)

    run_command(work)
