"""Wanda's importance, for whole heads and neurons: root mean square of activations times norm of weights.

The squares are summed over a unit's channels: this is what the projection's output loses without the unit, if channels
are uncorrelated. Source: arXiv 2306.11695, section 3, which removes single weights; summed over columns as in the
Wanda-sp that arXiv 2312.11983 compares with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.pruning.criteria._criterion import Criterion, Evidence, Unit, by_unit, column_power

if TYPE_CHECKING:
    import torch


def square_activations(
    hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor, units: int
) -> torch.Tensor:
    """Return the weighted sum over tokens of the squared activations, [channels]."""
    del weight_oi, units
    return weights_t @ hidden_ti.square()


def lost_output(evidence: Evidence) -> torch.Tensor:
    """Return the root of what the projection's output loses, [units]."""
    return by_unit(evidence.measured * column_power(evidence.weight_oi), evidence.units).sqrt()


_UNIT = Unit(square_activations, lost_output)
CRITERION = Criterion(heads=_UNIT, neurons=_UNIT)
