"""The command `benchmark`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from amp_export.cli.commands import command, examples
from amp_export.cli.options import Json, OutArgument
from amp_export.errors import RequestError
from amp_export.options import BenchmarkDevice
from amp_export.verb_options import BenchmarkOptions, DeviceOptions

if TYPE_CHECKING:
    from rich.console import Console

HERE = ("runtime", "to", "provider", "batch", "context", "generate", "min_effect", "time_limit", "cuda_graph")
ELSEWHERE = ("device_runtime", "device_python", "ssh_config")
"""Options for this machine only, and for other devices only."""

EXAMPLES = examples(
    "amp-export benchmark out",
    "amp-export benchmark out --batch 1,4 --context 128,1024 --generate 16,64",
    "amp-export benchmark out --runtime pytorch-compiled",
    "amp-export benchmark out --device cuda --cuda-graph",
    "amp-export benchmark out --device ssh://user@orin.local",
)


@command
def benchmark(
    console: Console,
    output: OutArgument,
    options: BenchmarkOptions,
    elsewhere: DeviceOptions,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="cuda for this machine's GPU, or ssh://[user@]host[:port] to measure there.  [default: the CPU]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the speedup of the pruned model over the dense one, interleaved, with a confidence interval.

    --batch, --context and --generate take several numbers, separated by commas: every combination is measured.
    """
    from amp_export.cli.console import ConsoleProgress
    from amp_export.cli.show_results import show_result
    from amp_export.reporting.report import Report

    progress = ConsoleProgress(console)
    _check_options(options, elsewhere, device)
    if device is None or device in tuple(BenchmarkDevice):
        from amp_export.api.benchmark import benchmark as run

        run(output, replace(options, device=BenchmarkDevice(device or "cpu")), progress=progress)
        report = Report.load(output)
    else:
        from amp_export.devices.remote import benchmark_on_device

        report = benchmark_on_device(output, device, elsewhere, progress=progress)
    show_result(console, report, as_json=as_json, written=output)


def _check_options(options: BenchmarkOptions, elsewhere: DeviceOptions, device: str | None) -> None:
    """Check that no option of the other kind of device is given.

    Raises:
        RequestError: Such an option is given.
    """
    here, there = BenchmarkOptions(), DeviceOptions()
    if device is None or device in tuple(BenchmarkDevice):
        if any(getattr(elsewhere, name) != getattr(there, name) for name in ELSEWHERE):
            raise RequestError(
                "--device-runtime, --device-python and --ssh-config are for another device.\n"
                "Name it with --device ssh://user@host."
            )
        return
    if any(getattr(options, name) != getattr(here, name) for name in HERE):
        raise RequestError(
            "--runtime, --to, --provider, --batch, --context, --generate, --min-effect, --time-limit and --cuda-graph "
            "are for this machine.\n"
            "--device-runtime chooses the runtime of a device; ONNX Runtime uses the device's GPU if it has one."
        )
