"""The parts of a criterion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Unit:
    """What is measured of the heads or neurons of a layer, and what they are worth.

    The input of a layer's output or down projection has the same number of channels for each unit: `head_dim` for a
    head, one for a neuron.

    Attributes:
        measure: Returns the sum over tokens of what is measured, given the inputs [tokens, channels], the projection's
            weight [outputs, channels] and a weight per token [tokens]. It may have any shape.
        judge: Returns the importance of each unit, [units], given the mean over samples of what was measured, the
            weight [outputs, channels] and the number of units.
    """

    measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
    judge: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Criterion:
    """A rule that says how important heads and neurons are.

    Attributes:
        heads: The rule for heads.
        neurons: The rule for neurons.
    """

    heads: Unit
    neurons: Unit


def column_power(weight_oi: torch.Tensor) -> torch.Tensor:
    """Return the squared norm of each column of a weight, [channels]."""
    return weight_oi.square().sum(dim=0)


def by_unit(channels_i: torch.Tensor, units: int) -> torch.Tensor:
    """Return the sum over each unit's channels, [units]."""
    return channels_i.reshape(units, -1).sum(dim=1)


def as_measured(measured_u: torch.Tensor, weight_oi: torch.Tensor, units: int) -> torch.Tensor:
    """Return what was measured: it is the importance."""
    del weight_oi, units
    return measured_u
