"""The command `benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export.cli.options import Against, Json, OutArgument, ProviderOption, Threads, WhichExport
from amp_export.cli.running import examples, run_and_show
from amp_export.exporters import Provider
from amp_export.options import DeviceRuntime, Format, TargetName

if TYPE_CHECKING:
    from amp_export.reporting import Report

DEFAULT_PYTHON = "python3"

EXAMPLES = examples("amp-export benchmark out", "amp-export benchmark out --device ssh://user@orin.local")


def benchmark(
    output: OutArgument,
    against: Against = None,
    rounds: Annotated[int, typer.Option(min=2, help="Interleaved rounds.")] = 20,
    to: WhichExport = Format.ONNX,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="ssh://[user@]host[:port]: measure there.  [default: this machine]"),
    ] = None,
    target: Annotated[
        TargetName, typer.Option("--target", help="What the bundle is made for that goes to the device.")
    ] = TargetName.CPU,
    device_runtime: Annotated[
        DeviceRuntime | None,
        typer.Option(help="What the device runs.  [default: TensorRT where it imports, else ONNX Runtime]"),
    ] = None,
    device_python: Annotated[
        str, typer.Option(metavar="PATH", help="The device's Python that has it, such as ~/venv/bin/python.")
    ] = DEFAULT_PYTHON,
    ssh_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Instead of ~/.ssh/config, as in ssh -F FILE."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the gain of a pruned graph over the dense one, interleaved, with a confidence interval."""

    def work(console: Any) -> Report:
        from amp_export.console import ConsoleProgress
        from amp_export.errors import RequestError
        from amp_export.reporting import Report

        progress = ConsoleProgress(console)
        if device is None and (device_runtime, device_python, ssh_config) != (None, DEFAULT_PYTHON, None):
            raise RequestError(
                "--device-runtime, --device-python and --ssh-config are for a device.\nName it with --device."
            )
        if device is not None:
            if (to, provider) != (Format.ONNX, Provider.CPU):
                raise RequestError(
                    "--to and --provider are for this machine.\n"
                    "--device-runtime chooses what a device runs; ONNX Runtime takes its GPU there if it has one."
                )
            from amp_export.devices import DeviceOptions, benchmark_on_device

            options = DeviceOptions(target, against, device_runtime, rounds, threads, device_python, ssh_config)
            return benchmark_on_device(output, device, options=options, progress=progress)
        from amp_export.benchmarking import benchmark as run

        run(
            output,
            against=against,
            rounds=rounds,
            to=to,
            provider=provider,
            threads=threads,
            progress=progress,
        )
        return Report.load(output)

    run_and_show(work, as_json=as_json, written=output)
