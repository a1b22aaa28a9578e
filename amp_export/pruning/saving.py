"""Write a pruned model as a checkpoint, and again when its weights have changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export import checkpoints
from amp_export.checkpoints.older_versions import name_tokenizer_class
from amp_export.checkpoints.reading import Checkpoint
from amp_export.checkpoints.weight_files import INDEX
from amp_export.checkpoints.writing import to_numpy, write_checkpoint
from amp_export.outputs.manifest import RewriteKind
from amp_export.pruning.rewriting import MODELING_FILE, Rewrite
from amp_export.pruning.slicing import module_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from amp_export.pruning.spilling import Spill


def save_pruned(
    folder: Path,
    model: PreTrainedModel,
    rewritten: Rewrite,
    *,
    companions: Iterable[Path] = (),
    base: Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    spill: Spill | None = None,
) -> None:
    """Write a pruned model as the checkpoint that its rewrite describes.

    Args:
        folder: Folder to create.
        model: The pruned model.
        rewritten: Config to write, and the class that reads it.
        companions: Files to copy next to the weights.
        base: Directory of those companions that keep their folders.
        tokenizer: The dense model's tokenizer.
        spill: Files that hold layers already, or None.
    """
    tensors = module_tensors(model, as_stored=rewritten.is_stock)
    held = spill.holding(tensors) if spill is not None else None
    if not rewritten.is_stock:
        companions = (*companions, Path(checkpoints.__file__).with_name(f"{MODELING_FILE}.py"))
    arrays = ((name, to_numpy(tensor)) for name, tensor in tensors.items())
    write_checkpoint(folder, rewritten.config, arrays, companions=companions, base=base, held=held)
    if tokenizer is not None and rewritten.kind in (RewriteKind.SIBLING_CLASS, RewriteKind.RESIZED_CLASS):
        # transformers would otherwise choose the class by the `model_type`
        name_tokenizer_class(folder, type(tokenizer).__name__)
    else:
        name_tokenizer_class(folder)


def save_trained(folder: Path, model: PreTrainedModel, pruned: Checkpoint, *, as_stored: bool) -> None:
    """Write a pruned checkpoint with the weights of a model, and all its other files as they are.

    Args:
        folder: Folder to create.
        model: The pruned checkpoint's model, with other weights.
        pruned: The pruned checkpoint.
        as_stored: Whether plain transformers loads it, without the modeling file.
    """
    weights = {file.name for file in pruned.weight_files} | {INDEX, "config.json"}
    others = [file for file in sorted(pruned.path.rglob("*")) if file.is_file()]
    companions = [file for file in others if file.relative_to(pruned.path).as_posix() not in weights]
    tensors = module_tensors(model, as_stored=as_stored)
    arrays = ((name, to_numpy(tensor)) for name, tensor in tensors.items())
    write_checkpoint(folder, pruned.raw_config, arrays, companions=companions, base=pruned.path)
