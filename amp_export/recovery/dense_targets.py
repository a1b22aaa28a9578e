"""The dense model's predictions on windows of text: computed once, then read from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.recovery.devices import run_windows
from amp_export.recovery.targets import Targets, take_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOP_K = 64
"""Likeliest tokens that are stored of each prediction, 8 bytes each."""


@dataclass(frozen=True)
class DenseTargets:
    """The dense model's predictions on each window; each is computed when it is first asked for.

    Only windows that are trained on cost a forward pass, and later epochs and resumed runs read files.

    Attributes:
        model: The dense model.
        windows: The windows.
        folder: Folder of the files.
        k: Number of tokens to keep of each prediction.
    """

    model: PreTrainedModel
    windows: Sequence[Sequence[int]]
    folder: Path
    k: int = TOP_K

    def of(self, number: int) -> Targets:
        """Return the predictions on a window, on the model's device."""
        from safetensors.torch import load_file, save_file

        file = self.folder / f"targets-{number}.safetensors"
        if not file.is_file():
            targets = self._compute(number)
            partial = file.with_suffix(".partial")
            save_file({name: tensor.cpu().contiguous() for name, tensor in vars(targets).items()}, partial)
            partial.replace(file)
        return Targets(**load_file(file, device=str(self.model.device)))

    def _compute(self, number: int) -> Targets:
        import torch

        with torch.no_grad():
            return take_targets(run_windows(self.model, [self.windows[number]]), self.k)
