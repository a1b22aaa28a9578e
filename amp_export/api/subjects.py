"""Decoders that a command runs: named models, and what output directories hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.architectures import Kind
from amp_export.checkpoints.building import read_dense_config, transformers_errors
from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from amp_export.errors import RequestError, UnsupportedModelError
from amp_export.evaluation.decoders import ending_tokens
from amp_export.options import Format
from amp_export.outputs.lookup import open_source_checkpoint, require_export
from amp_export.outputs.names import PRUNED
from amp_export.outputs.staging import is_ours
from amp_export.reporting.files import open_output

if TYPE_CHECKING:
    from amp_export.outputs.manifest import Manifest
    from amp_export.progress import Progress


@dataclass(frozen=True)
class Subject:
    """A decoder to run.

    Attributes:
        name: Its name in the result.
        checkpoint: Its checkpoint.
        export: Folder of the export that is run instead of the checkpoint, or None.
    """

    name: str
    checkpoint: Checkpoint
    export: Path | None = None


def split_export(model: str | Path, to: Format | None) -> tuple[str | Path, Format | None]:
    """Return the output directory and the format of an export that is named by its folder, such as `out/onnx`.

    Args:
        model: What the user named.
        to: The format that the user named, or None.

    Returns:
        Both as they are, unless the model is the folder of an export.

    Raises:
        RequestError: The folder is of another format.
    """
    path = Path(model).expanduser()
    if path.name not in set(Format) or not path.is_dir() or not is_ours(path.parent):
        return model, to
    found = Format(path.name)
    if to not in (None, found):
        raise RequestError(f"{model} is an export to {found}, but --to is {to}.\nLeave it out, or name {path.parent}.")
    return path.parent, found


def open_if_output(model: str | Path, to: Format | None, *, does: str) -> tuple[Path, Manifest | None]:
    """Return the path of a model, and the manifest if it is an output directory.

    Args:
        model: What the user named.
        to: The format of the export in it that the user named, or None.
        does: What the command does with an export, for the message.

    Raises:
        RequestError: A format is named, but the model is no output directory.
    """
    output = Path(model).expanduser()
    if is_ours(output):
        return output, open_output(output)
    if to is not None:
        raise RequestError(
            f"--to {to} {does} an export in an output directory, and {model} is none.\nExport it first, and name that "
            "OUT; or leave --to out."
        )
    return output, None


def subject_of(name: str, checkpoint: Checkpoint, *, export: Path | None = None) -> Subject:
    """Return a checkpoint, or an export of it, as what is run.

    Raises:
        UnsupportedModelError: It is not a decoder.
    """
    if checkpoint.config.architecture.kind is not Kind.DECODER:
        raise UnsupportedModelError(
            f"{name} is a {checkpoint.config.class_name}, which does not predict the next token.\nGive a decoder; for "
            "other models, `amp-export validate` compares an export with its checkpoint."
        )
    return Subject(name, checkpoint, export)


def subject_in(output: Path, manifest: Manifest, to: Format | None) -> Subject:
    """Return what an output directory holds: an export, or else the checkpoint that exports are made from.

    Args:
        output: The output directory.
        manifest: Its manifest.
        to: The export's format; None for the checkpoint.

    Raises:
        OutputError: There is no such export, or the dense checkpoint of an output that is not pruned is gone.
        UnsupportedModelError: It is not a decoder.
    """
    if to is not None:
        require_export(output, manifest, to)
    is_pruned = (output / PRUNED).is_dir()
    opened = (
        open_checkpoint(output / PRUNED)
        if is_pruned
        else open_source_checkpoint(output, manifest, advice="Name another model instead.")
    )
    if to is not None:
        return subject_of(str(output / to), opened, export=output / to)
    return subject_of(str(output / PRUNED) if is_pruned else manifest.source.name, opened)


def resolve_subject(
    model: str | Path, *, revision: str | None = None, allow_pickle: bool = False, progress: Progress
) -> Subject:
    """Return a model in PyTorch: the pruned one of an output directory, or one that is named.

    Raises:
        AmpExportError: It cannot be found or read, or is not a decoder.
    """
    output = Path(model).expanduser()
    if is_ours(output):
        return subject_in(output, open_output(output), None)
    source = resolve_model(model, revision=revision, allow_pickle=allow_pickle, on_status=progress.note)
    return subject_of(str(model), open_checkpoint(source.path))


def read_ending_tokens(path: Path) -> list[int]:
    """Return the tokens that end a text: those of generation_config.json, or else of config.json."""
    from transformers import GenerationConfig

    with quiet_transformers(), transformers_errors(path):
        configs = [GenerationConfig.from_pretrained(path)] if (path / "generation_config.json").is_file() else []
        return ending_tokens(*configs, read_dense_config(path))
