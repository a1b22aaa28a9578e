"""Write a pruned model as a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export import checkpoints
from amp_export.checkpoints.older_versions import name_tokenizer_class
from amp_export.checkpoints.writing import write_checkpoint
from amp_export.outputs.manifest import RewriteKind
from amp_export.pruning.rewriting import MODELING_FILE, Rewrite
from amp_export.pruning.slicing import module_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_pruned(
    folder: Path,
    model: PreTrainedModel,
    rewritten: Rewrite,
    *,
    companions: Iterable[Path] = (),
    base: Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a pruned model as the checkpoint that its rewrite describes.

    Args:
        folder: Folder to create.
        model: The pruned model.
        rewritten: Config to write, and the class that reads it.
        companions: Files to copy next to the weights.
        base: Directory of those companions that keep their folders.
        tokenizer: The dense model's tokenizer.
    """
    tensors = module_tensors(model, as_stored=rewritten.is_stock)
    if not rewritten.is_stock:
        companions = (*companions, Path(checkpoints.__file__).with_name(f"{MODELING_FILE}.py"))
    write_checkpoint(folder, rewritten.config, tensors, companions=companions, base=base)
    if tokenizer is not None and rewritten.kind in (RewriteKind.SIBLING_CLASS, RewriteKind.RESIZED_CLASS):
        # transformers would otherwise choose the class by the `model_type`
        name_tokenizer_class(folder, type(tokenizer).__name__)
    else:
        name_tokenizer_class(folder)
