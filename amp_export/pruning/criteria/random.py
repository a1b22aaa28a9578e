"""Random importance, to compare with: the same for the same shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.pruning.criteria._criterion import Criterion, Evidence, Unit
from amp_export.pruning.criteria.magnitude import nothing

if TYPE_CHECKING:
    import torch


def draw(evidence: Evidence) -> torch.Tensor:
    """Return numbers between 0 and 1 that depend on the weight's values, so that layers differ, [units]."""
    import torch

    seed = int.from_bytes(evidence.weight_oi[:1, :8].float().cpu().numpy().tobytes()[:7], "little")
    return torch.rand(evidence.units, generator=torch.Generator().manual_seed(seed))


_UNIT = Unit(nothing, draw)
CRITERION = Criterion(heads=_UNIT, neurons=_UNIT, reads_texts=False)
