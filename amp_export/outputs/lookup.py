"""Find what an output directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.errors import OutputError
from amp_export.options import Format
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import PRUNED

if TYPE_CHECKING:
    pass


def which_export(output: Path) -> Format:
    """Return the export that an output directory holds; the first where there are several.

    Raises:
        OutputError: It is no output of this tool.
    """
    manifest = Manifest.load(output)
    return next((each for each in Format if each in manifest.exports), Format.ONNX)


def require_export(output: Path, manifest: Manifest, to: Format, *, why: str = "") -> None:
    """See that an output directory holds an export.

    Args:
        output: The output directory.
        manifest: Its manifest.
        to: The format.
        why: What it is needed for.

    Raises:
        OutputError: It does not.
    """
    if to in manifest.exports:
        return
    checkpoint = output / PRUNED if (output / PRUNED).is_dir() else manifest.source.asked
    raise OutputError(
        f"{output} has no {to} export{why}. Its exports: {', '.join(manifest.exports) or 'none'}.\nExport it: "
        f"amp-export export --to {to} --model {checkpoint} --output {output}"
    )


def exported_checkpoint(
    output: Path, manifest: Manifest, *, advice: str = "Give the checkpoint with --reference."
) -> Path:
    """Return the checkpoint that the graph in an output directory was exported from.

    Args:
        output: The output directory.
        manifest: Its manifest.
        advice: What to do where the checkpoint is gone.

    Raises:
        OutputError: It is no longer there.
    """
    if (output / PRUNED).is_dir():
        return output / PRUNED
    path = Path(manifest.source.path)
    if not path.is_dir():
        raise OutputError(
            f"The graph in {output} was exported from {manifest.source.asked} at {path}, which no longer "
            f"exists.\n{advice}"
        )
    return path
