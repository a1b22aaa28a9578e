"""Look up exports and checkpoints in an output directory."""

from __future__ import annotations

from pathlib import Path

from amp_export.checkpoints.hashing import hash_weights
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.checkpoints.sources import Source
from amp_export.checkpoints.vision_language import hash_whole
from amp_export.errors import OutputError, command_line
from amp_export.options import Format
from amp_export.outputs.manifest import Manifest, SourceRecord
from amp_export.outputs.names import PRUNED, WHOLE


def record_source(source: Source, checkpoint: Path, sha256: str) -> SourceRecord:
    """Return the record of a resolved model.

    Args:
        source: The model.
        checkpoint: The checkpoint directory that was read.
        sha256: The hash of its config and weights.
    """
    return SourceRecord(
        source.asked,
        str(checkpoint.resolve()),
        sha256,
        revision=source.revision,
        commit=source.commit,
        whole=str(source.whole.resolve()) if source.whole is not None else None,
        whole_sha256=source.whole_sha256,
    )


def which_export(output: Path) -> Format:
    """Return the format of the export in an output directory; the first in the order of `Format` if there are several.

    Raises:
        OutputError: The directory is not an output of amp-export.
    """
    manifest = Manifest.load(output)
    return next((each for each in Format if each in manifest.exports), Format.ONNX)


def require_export(output: Path, manifest: Manifest, to: Format, *, why: str = "") -> None:
    """Raise OutputError if an output directory does not hold an export in a format.

    Args:
        output: The output directory.
        manifest: Its manifest.
        to: The format.
        why: Clause for the message that says why it is needed.

    Raises:
        OutputError: There is no such export.
    """
    if to in manifest.exports:
        return
    model = ("--model", output / PRUNED) if (output / PRUNED).is_dir() else manifest.source.words
    command = command_line("amp-export", "export", "--to", to, *model, "--output", output)
    raise OutputError(
        f"{output} has no {to} export{why}. Its exports: {', '.join(manifest.exports) or 'none'}.\nExport it: {command}"
    )


def exported_checkpoint(
    output: Path, manifest: Manifest, *, advice: str = "Give the checkpoint with --reference."
) -> Path:
    """Return the checkpoint that the graph in an output directory was exported from.

    Args:
        output: The output directory.
        manifest: Its manifest.
        advice: Advice for the message if the checkpoint no longer exists.

    Raises:
        OutputError: The checkpoint no longer exists.
    """
    if (output / PRUNED).is_dir():
        return output / PRUNED
    return source_checkpoint(output, manifest, advice=advice)


def source_checkpoint(output: Path, manifest: Manifest, *, advice: str) -> Path:
    """Return the path of the checkpoint that an output was made from; see `open_source_checkpoint`."""
    return open_source_checkpoint(output, manifest, advice=advice).path


def find_whole(output: Path, manifest: Manifest, *, advice: str) -> Path | None:
    """Return the vision-language model whose language model an output holds or was made from; None if there is none.

    Args:
        output: The output directory.
        manifest: Its manifest.
        advice: Advice for the message if it no longer exists.

    Raises:
        OutputError: It no longer exists, or has changed.
    """
    if (output / PRUNED).is_dir():
        return output / WHOLE if (output / WHOLE).is_dir() else None
    return source_whole(output, manifest, advice=advice)


def source_whole(output: Path, manifest: Manifest, *, advice: str) -> Path | None:
    """Return the vision-language model that an output was made from, after comparing its hash; None if it was of none.

    Args:
        output: The output directory.
        manifest: Its manifest.
        advice: Advice for the error message.

    Raises:
        OutputError: It no longer exists, or has changed.
    """
    if manifest.source.whole is None:
        return None
    path = Path(manifest.source.whole)
    if not path.is_dir() or hash_whole(path) != manifest.source.whole_sha256:
        raise OutputError(
            f"{output} was made from {manifest.source.name} at {path}, which no longer exists or has changed.\n{advice}"
        )
    return path


def open_source_checkpoint(output: Path, manifest: Manifest, *, advice: str) -> Checkpoint:
    """Open the checkpoint that an output was made from, after comparing its hash.

    Args:
        output: The output directory.
        manifest: Its manifest.
        advice: Advice for the error message.

    Raises:
        OutputError: The checkpoint no longer exists, or has changed.
    """
    asked, path = manifest.source.name, Path(manifest.source.path)
    if not path.is_dir():
        raise OutputError(f"{output} was made from {asked} at {path}, which no longer exists.\n{advice}")
    checkpoint = open_checkpoint(path)
    if (found := hash_weights(checkpoint)) != manifest.source.sha256:
        raise OutputError(
            f"{output} was made from {asked} at {path}, which has changed since: its weights and config have SHA-256 "
            f"{found[:12]}…, and {manifest.source.sha256[:12]}… is expected.\nPut the checkpoint back. {advice}"
        )
    return checkpoint
