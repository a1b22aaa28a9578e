"""FLAP's importance: how much activations fluctuate around their mean, times the norm of weights.

A constant activation can be replaced by a bias, so that only the fluctuation is lost. Source: arXiv 2312.11983,
section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.pruning.criteria._criterion import Criterion, Evidence, Unit, by_unit, column_power

if TYPE_CHECKING:
    import torch


def means_and_squares(
    hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor, units: int
) -> torch.Tensor:
    """Return the weighted sums over tokens of activations and of their squares, [2, channels]."""
    import torch

    del weight_oi, units
    return torch.stack((weights_t @ hidden_ti, weights_t @ hidden_ti.square()))


def fluctuation(evidence: Evidence) -> torch.Tensor:
    """Return the variance of each unit's activations times the squared norm of their columns, [units]."""
    return by_unit(_by_channel(evidence), evidence.units)


def channel_spread(evidence: Evidence) -> torch.Tensor:
    """Return the standard deviation of the fluctuation over a layer's channels, unbiased, a scalar."""
    fluctuation_i = _by_channel(evidence).double()
    # a single channel does not deviate
    deviation: torch.Tensor = fluctuation_i.std(correction=min(1, len(fluctuation_i) - 1)).float()
    return deviation


def _by_channel(evidence: Evidence) -> torch.Tensor:
    """Return the variance of each channel's activations times the squared norm of its column, [channels]."""
    mean_i, square_i = evidence.measured
    variance_i = (square_i - mean_i.square()).clamp(min=0)
    fluctuation_i: torch.Tensor = variance_i * column_power(evidence.weight_oi)
    return fluctuation_i


CRITERION = Criterion(
    heads=Unit(means_and_squares, fluctuation, spread=channel_spread),
    neurons=Unit(means_and_squares, fluctuation),
)
