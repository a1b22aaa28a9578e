"""Magnitude: the norm of a unit's columns of the output or down projection; nothing is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.pruning.criteria._criterion import Criterion, Evidence, Unit, by_unit, column_power

if TYPE_CHECKING:
    import torch


def nothing(hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor, units: int) -> torch.Tensor:
    """Return zeros: no activation counts, [units]."""
    del weight_oi, weights_t
    return hidden_ti.new_zeros(units)


def norm(evidence: Evidence) -> torch.Tensor:
    """Return the norm of each unit's columns, [units]."""
    return by_unit(column_power(evidence.weight_oi), evidence.units).sqrt()


_UNIT = Unit(nothing, norm)
CRITERION = Criterion(heads=_UNIT, neurons=_UNIT, reads_texts=False)
