"""AMP's importance reversed, to compare with: what matters most goes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.pruning.criteria._criterion import Criterion, Evidence, Unit
from amp_export.pruning.criteria.amp import absolute_activations, head_contributions

if TYPE_CHECKING:
    import torch


def reverse(evidence: Evidence) -> torch.Tensor:
    """Return how much less important each unit is than the most important one, [units]."""
    return evidence.measured.max() - evidence.measured


CRITERION = Criterion(
    heads=Unit(head_contributions, reverse),
    neurons=Unit(absolute_activations, reverse),
    reads_texts=False,
)
