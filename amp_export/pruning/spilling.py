"""Keep pruned layers in files instead of memory, so that a model may be larger than that.

transformers maps the files of a checkpoint into memory, where the system reads and drops pages as it likes. What is
sliced from them, or fitted, is memory that it cannot drop, until it is written to a file and mapped again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.checkpoints.writing import save_tensors, to_numpy

if TYPE_CHECKING:
    import torch

SPILLED_BYTES = 4 << 30
"""Size of a model from which its pruned layers are kept in files: below, memory is faster."""


def spill_layers(folder: Path) -> Callable[[int, torch.nn.Module], None]:
    """Return a function that moves the weights of a layer, given its number, to a file in a folder."""

    def spill(number: int, layer: torch.nn.Module) -> None:
        import torch
        from safetensors import safe_open

        weights = dict(layer.named_parameters())
        file = folder / f"layer-{number}.safetensors"
        save_tensors(file, {name: to_numpy(weight.detach()) for name, weight in weights.items()}, metadata={})
        with safe_open(file, framework="pt") as mapped:
            for name, weight in weights.items():
                path, _, parameter = name.rpartition(".")
                kept = torch.nn.Parameter(mapped.get_tensor(name), requires_grad=weight.requires_grad)
                setattr(layer.get_submodule(path), parameter, kept)

    return spill
