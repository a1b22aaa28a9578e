"""What tests of recovery share."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from amp_export import prune, recover
from amp_export.options import Allocation
from amp_export.progress import Silent
from amp_export.recovery.results import Recovery
from amp_export.verb_options import PruneOptions, RecoverOptions


def pruned_output(dense: Path, text: Path, folder: Path) -> Path:
    """An output with a pruned checkpoint."""
    # what can be repaired in a few steps
    how = PruneOptions(ratio=0.3, snap=1, allocation=Allocation.BALANCED, calibration=text, compensate=False)
    prune(dense, folder / "out", how)
    return folder / "out"


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "pruned/model.safetensors")


def train(pruned: Path, options: RecoverOptions, folder: Path) -> tuple[Recovery, bytes]:
    """What training a copy of an output records, and the file of its weights."""
    output = Path(shutil.copytree(pruned, folder / "out"))
    return recover(output, options).recovery, (output / "pruned/model.safetensors").read_bytes()


class StopAt(Silent):
    """Progress that raises once training has reached a step."""

    def __init__(self, step: int) -> None:
        self._last = step
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
        if message.startswith(f"After step {self._last}:"):
            raise KeyboardInterrupt
