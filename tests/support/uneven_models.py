"""Tiny decoders, each layer of which has its own numbers of heads and neurons."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from amp_export.architectures import LayerWidths, find_architecture, resized_modules
from amp_export.checkpoints.modeling_amp import resize
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.checkpoints.stacked import name_matrices
from amp_export.checkpoints.weight_files import read_header
from tests.support.tiny_models import BUILDABLE, randomize, save_tiny_model

GROUPED = (LayerWidths(4, 2, 40), LayerWidths(2, 1, 64), LayerWidths(3, 3, 7))
SEPARATE = (LayerWidths(4, 4, 40), LayerWidths(2, 2, 64), LayerWidths(3, 3, 7))
SHARED = (LayerWidths(4, 1, 40), LayerWidths(2, 1, 64), LayerWidths(3, 1, 7))
WIDTHS = {
    **{name: SEPARATE for name in BUILDABLE if find_architecture(name).field_name("num_key_value_heads") is None},
    "falcon": SHARED,
    "gpt_bigcode": SHARED,
}
"""Of families whose heads have their own keys, or all share one; GROUPED for the others."""

UNEVEN: dict[str, tuple[str, dict[str, Any], tuple[LayerWidths, ...]]] = {
    **{model_type: (model_type, {}, WIDTHS.get(model_type, GROUPED)) for model_type in BUILDABLE},
    "falcon, new": ("falcon", {"new_decoder_architecture": True}, GROUPED),
    "cohere, norms of heads": ("cohere", {"use_qk_norm": True}, GROUPED),
}


def uneven(
    folder: Path, model_type: str, overrides: dict[str, Any], widths: tuple[LayerWidths, ...]
) -> tuple[Checkpoint, Any]:
    """The checkpoint, and the model, whose modules were resized by hand."""
    donor = open_checkpoint(save_tiny_model(folder / "donor", model_type, **overrides))
    widths = tuple(donor.config.fit(layer, site) for layer, site in zip(widths, donor.config.sites, strict=True))
    model = AutoModelForCausalLM.from_pretrained(donor.path, dtype=torch.float32)
    resize(model, resized_modules(donor.config, widths))
    randomize(model)
    model.save_pretrained(folder / "uneven")
    file = folder / "uneven" / "model.safetensors"
    tensors = {info.stored_name: info for info in read_header(file)}
    return dataclasses.replace(donor, widths=widths, tensors=name_matrices(donor.config, tensors)), model
