"""The command `benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_export.cli.options import Against, Json, OutArgument, ProviderOption, Threads, read_numbers
from amp_export.cli.running import examples, run_and_show
from amp_export.options import DeviceRuntime, Format, Provider, Runtime, TargetName

if TYPE_CHECKING:
    from amp_export.benchmarking.setup import Setup
    from amp_export.reporting.report import Report

DEFAULT_PYTHON = "python3"

CUDA = "cuda"
"""The device that is this machine's GPU."""

EXAMPLES = examples(
    "amp-export benchmark out",
    "amp-export benchmark out --batch 1,4 --context 128,1024 --generate 16,64",
    "amp-export benchmark out --runtime pytorch-compiled",
    "amp-export benchmark out --device cuda",
    "amp-export benchmark out --device ssh://user@orin.local",
)


def benchmark(
    output: OutArgument,
    against: Against = None,
    rounds: Annotated[int, typer.Option(min=2, help="Interleaved rounds.")] = 20,
    runtime: Annotated[
        Runtime | None, typer.Option(help="What runs both.  [default: that of --to, ONNX Runtime or TensorRT]")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="Texts, images or sounds at once.")] = "1",
    context: Annotated[
        str | None, typer.Option(metavar="N,...", help="Tokens of the prompt.  [default: 128, or what fits]")
    ] = None,
    generate: Annotated[str, typer.Option(metavar="N,...", help="Tokens that are written after it.")] = "16",
    to: Annotated[Format | None, typer.Option("--to", help="Which export of it.  [default: onnx]")] = None,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="cuda: this machine's GPU; ssh://[user@]host[:port]: measure there.  [default: the processor]",
        ),
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
    """Measure the gain of the pruned model over the dense one, interleaved, with a confidence interval.

    --batch, --context and --generate take several numbers, separated by commas: every combination is measured.
    """

    def work(console: Any) -> Report:
        from amp_export.cli.console import ConsoleProgress
        from amp_export.errors import RequestError
        from amp_export.reporting.report import Report

        progress = ConsoleProgress(console)
        is_here = device in (None, CUDA)
        if is_here and (device_runtime, device_python, ssh_config) != (None, DEFAULT_PYTHON, None):
            raise RequestError(
                "--device-runtime, --device-python and --ssh-config are for a device elsewhere.\n"
                "Name it with --device ssh://user@host."
            )
        if device is not None and not is_here:
            if (to, provider, runtime, batch, context, generate) != (None, Provider.CPU, None, "1", None, "16"):
                raise RequestError(
                    "--runtime, --to, --provider, --batch, --context and --generate are for this machine.\n"
                    "--device-runtime chooses what a device runs; ONNX Runtime takes its GPU there if it has one."
                )
            from amp_export.devices.remote import DeviceOptions, benchmark_on_device

            options = DeviceOptions(target, against, device_runtime, rounds, threads, device_python, ssh_config)
            return benchmark_on_device(output, device, options=options, progress=progress)
        from amp_export.api.benchmark import benchmark as run
        from amp_export.benchmarking.workloads import Sweep

        sweep = Sweep(
            read_numbers("--batch", batch),
            read_numbers("--context", context) if context is not None else None,
            read_numbers("--generate", generate),
        )
        setup = _choose_setup(runtime, to, provider, threads, gpu=device == CUDA)
        run(output, setup=setup, sweep=sweep, against=against, rounds=rounds, progress=progress)
        return Report.load(output)

    run_and_show(work, as_json=as_json, written=output)


def _choose_setup(
    runtime: Runtime | None, to: Format | None, provider: Provider, threads: int | None, *, gpu: bool
) -> Setup:
    from amp_export.benchmarking.setup import FORMATS, RUNTIMES, Setup
    from amp_export.errors import RequestError

    if runtime is None:
        runtime = RUNTIMES[to or Format.ONNX]
    if to is not None and to is not FORMATS.get(runtime):
        runs = FORMATS.get(runtime, "the checkpoint")
        raise RequestError(f"--runtime {runtime} runs {runs}, and not what --to {to} names.\nLeave one of them out.")
    if provider is not Provider.CPU and runtime is not Runtime.ONNXRUNTIME:
        raise RequestError(f"--provider is for ONNX Runtime, and --runtime {runtime} has none.\nLeave one of them out.")
    if gpu and runtime is Runtime.ONNXRUNTIME and provider is Provider.CPU:
        provider = Provider.CUDA
    return Setup(runtime, threads=threads, provider=provider, gpu=gpu)
