"""Importance by the gradient: how much the loss changes to first order if a unit is removed, squared.

The loss is the model's own, on tokens sampled from its predictions, so that the mean of the squares is a diagonal of
the Fisher information. Source: arXiv 1906.10771, section 3, equation 8, for the gates of heads and neurons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.pruning.criteria._criterion import Criterion, Evidence, Unit
from amp_export.pruning.criteria.magnitude import nothing

if TYPE_CHECKING:
    import torch


def squared_changes(
    inputs_ti: torch.Tensor, gradients_to: torch.Tensor, weight_oi: torch.Tensor, units: int
) -> torch.Tensor:
    """Return the sum over tokens of the squared change of the loss without each unit, [units]."""
    changes_ti = inputs_ti * (gradients_to @ weight_oi)
    return changes_ti.reshape(len(inputs_ti), units, -1).sum(dim=2).square().sum(dim=0)


def as_traced(evidence: Evidence) -> torch.Tensor:
    """Return the root of what was traced, [units]."""
    assert evidence.traced is not None
    return evidence.traced.sqrt()


_UNIT = Unit(nothing, as_traced, squared_changes)
CRITERION = Criterion(heads=_UNIT, neurons=_UNIT, needs_gradients=True, suits_experts=False)
