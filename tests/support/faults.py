"""Planted faults, and the case that finds them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from amp_export.checkpoints.loading import load_model
from amp_export.parity.decoder_cases import Case

CASE = Case("padded batch", (4, 9), decode_steps=2)


def swap_heads(layer: Any) -> None:
    """Swap the queries of the first two heads; keys and values stay."""
    order = [*range(8, 16), *range(8), *range(16, 32)]
    query = layer.attention.self.query
    query.weight.data, query.bias.data = query.weight.data[order], query.bias.data[order]


def wrong_model(checkpoint: Path, folder: Path, change: Callable[[torch.nn.Module], None]) -> Path:
    other = Path(shutil.copytree(checkpoint, folder / "other"))
    model = load_model(checkpoint)
    with torch.no_grad():
        change(model)
    model.save_pretrained(other)
    return other
