"""The command `bundle`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.cli.commands import command, examples
from amp_export.cli.options import OutArgument, Overwrite
from amp_export.verb_options import BundleOptions

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = examples("amp-export bundle out --target orin-nano --max-context 1024")


@command
def bundle(console: Console, output: OutArgument, options: BundleOptions, overwrite: Overwrite = False) -> None:
    """Pack graphs, references and scripts for a device, which builds, verifies and measures with `bash run.sh`."""
    from amp_export.cli.console import ConsoleProgress
    from amp_export.devices.bundle import bundle as run

    result = run(output, options, overwrite=overwrite, progress=ConsoleProgress(console))
    sizes = f"{result.bytes / 1e6:.0f} MB, unpacked {result.unpacked_bytes / 1e6:.0f} MB"
    console.print(f"Written: {result.file}, {sizes}.", markup=False, soft_wrap=True)
    console.print("On the device, unpack it and run: bash run.sh", soft_wrap=True)
