"""The parts of a criterion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Evidence:
    """What is known of the heads or neurons of a layer.

    Attributes:
        measured: Mean over samples of what was measured.
        weight_oi: Weight of the output or down projection, [outputs, channels].
        units: Number of heads or neurons.
        traced: Sum over tokens of what was traced; None if gradients were not computed.
    """

    measured: torch.Tensor
    weight_oi: torch.Tensor
    units: int
    traced: torch.Tensor | None = None


@dataclass(frozen=True)
class Unit:
    """What is measured of the heads or neurons of a layer, and what they are worth.

    The input of a layer's output or down projection has the same number of channels for each unit: `head_dim` for a
    head, one for a neuron.

    Attributes:
        measure: Returns the sum over tokens of what is measured, given the inputs [tokens, channels], the projection's
            weight [outputs, channels], a weight per token [tokens] and the number of units. It may have any shape.
        judge: Returns the importance of each unit, [units].
        trace: Returns a sum over tokens that needs gradients, given the inputs [tokens, channels], the gradients of the
            projection's outputs [tokens, outputs], its weight and the number of units. None if none are needed.
        spread: Returns the standard deviation over channels of what `judge` sums over those of each head, a scalar.
            None if none is needed; that of neurons, which have one channel each, follows from their importance.
    """

    measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
    judge: Callable[[Evidence], torch.Tensor]
    trace: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor] | None = None
    spread: Callable[[Evidence], torch.Tensor] | None = None


@dataclass(frozen=True)
class Criterion:
    """A rule that says how important heads and neurons are.

    Attributes:
        heads: The rule for heads.
        neurons: The rule for neurons.
        reads_texts: Whether it is measured on the longer texts that layers are fitted on, not on short prompts.
        by_layer: Whether what is measured is so large that it is held of one layer at a time.
        needs_gradients: Whether it cannot do without gradients, which only decoders have here.
        relative: Whether a token weighs as one over the squared norm of the hidden state after the layer, since the
            next norm divides by it. In SmolLM2-135M, the first token of a text would outweigh all others.
        suits_experts: Whether it can judge experts.
    """

    heads: Unit
    neurons: Unit
    reads_texts: bool = True
    by_layer: bool = False
    needs_gradients: bool = False
    relative: bool = False
    suits_experts: bool = True


def column_power(weight_oi: torch.Tensor) -> torch.Tensor:
    """Return the squared norm of each column of a weight, [channels]."""
    return weight_oi.square().sum(dim=0)


def by_unit(channels_i: torch.Tensor, units: int) -> torch.Tensor:
    """Return the sum over each unit's channels, [units]."""
    return channels_i.reshape(units, -1).sum(dim=1)


def as_measured(evidence: Evidence) -> torch.Tensor:
    """Return what was measured: it is the importance."""
    return evidence.measured
