"""Keep pruned layers in files instead of memory, so that a model may be larger than that.

transformers maps the files of a checkpoint into memory, where the system reads and drops pages as it likes. What is
sliced from them, or fitted, is memory that it cannot drop, until it is written to a file and mapped again.
These files become shards of the pruned checkpoint, so that nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.checkpoints.writing import METADATA, save_tensors, to_numpy

if TYPE_CHECKING:
    import torch

    from amp_export.architectures import ModelConfig

SPILLED_BYTES = 4 << 30
"""Size of a model from which its pruned layers are kept in files: below, memory is faster."""


class Spill:
    """Moves the weights of layers to files in a folder, and knows what these hold."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        """Take the folder, and the config of the model whose layers are spilled."""
        self._folder, self._config = folder, config
        self._files: dict[Path, dict[str, torch.Tensor]] = {}

    def __call__(self, number: int, layer: torch.nn.Module) -> None:
        """Move the weights of a layer, given its number, to a file, and map them."""
        import torch
        from safetensors import safe_open

        scope = self._config.sites[number].path
        weights = {f"{scope}.{name}": weight for name, weight in layer.named_parameters()}
        file = self._folder / f"layer-{number}.safetensors"
        save_tensors(file, {name: to_numpy(weight.detach()) for name, weight in weights.items()}, metadata=METADATA)
        with safe_open(file, framework="pt") as mapped:
            self._files[file] = {name: mapped.get_tensor(name) for name in weights}
        for name, weight in weights.items():
            path, _, parameter = name.removeprefix(f"{scope}.").rpartition(".")
            kept = torch.nn.Parameter(self._files[file][name], requires_grad=weight.requires_grad)
            setattr(layer.get_submodule(path), parameter, kept)

    def holding(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, Path]:
        """Return the files that hold tensors under the same names, by these names.

        A file is left out if not all that it holds is among the tensors: if a layer was spilled again, or if files of
        transformers have other tensors for it.
        """
        return {
            name: file
            for file, mapped in self._files.items()
            if all(name in tensors and tensors[name].is_set_to(each) for name, each in mapped.items())
            for name in mapped
        }
