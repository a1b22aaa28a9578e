"""Optimal brain surgeon: what a projection's output loses without a unit, if the others make up for it.

Units are removed one step after another, those that cost least first, and after each step the remaining columns are
updated, so that the next costs are those of what is left. Where gradients can be had, losses are measured in their
metric, `e^T G e` with G the second moments of the gradients of the output, which is what the model's loss sees of them.
The importance of a neuron is the root of what its removal costs when its turn comes. Heads are all judged in the dense
layer, since few are removed. Source: the update and cost of arXiv 2203.07259, section 3, equations 3 and 4, for columns
that all rows share, as in arXiv 2302.04089.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.pruning.criteria._criterion import Criterion, Evidence, Unit
from amp_export.pruning.damping import damp, factorize

if TYPE_CHECKING:
    import torch

DAMPING = 1e-2
"""What is added to the diagonal of the second moments, as a share of its mean."""

STEPS = 96
"""Steps in which all neurons of a layer are removed."""

COMPACT_EVERY = 8
"""Steps after which what was removed is left out of the matrices: to copy them in each step takes most of the time."""


def input_moments(
    hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor, units: int
) -> torch.Tensor:
    """Return the weighted sum over tokens of the inputs' second moments, [channels, channels]."""
    del weight_oi, units
    return (hidden_ti.T * weights_t) @ hidden_ti


def gradient_moments(
    inputs_ti: torch.Tensor, gradients_to: torch.Tensor, weight_oi: torch.Tensor, units: int
) -> torch.Tensor:
    """Return the sum over tokens of the gradients' second moments, [outputs, outputs]."""
    del inputs_ti, weight_oi, units
    return gradients_to.T @ gradients_to


def cost_alone(evidence: Evidence) -> torch.Tensor:
    """Return the root of what the output loses without each unit alone, [units]."""
    weight_oi, inverse_ii = _start(evidence)
    blocks_uoc = weight_oi.reshape(len(weight_oi), evidence.units, -1).transpose(0, 1)
    channels = blocks_uoc.shape[2]
    inverses_ucuc = inverse_ii.reshape(evidence.units, channels, evidence.units, channels)
    inverses_ucc = inverses_ucuc.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    lost_u = (blocks_uoc @ inverses_ucc.inverse() * blocks_uoc).sum(dim=(1, 2))
    return lost_u.clamp(min=0).sqrt().float()


def cost_in_turn(evidence: Evidence) -> torch.Tensor:
    """Return the root of what the output loses with each neuron, removed in the best order found, [units]."""
    import torch

    weight_oi, inverse_ii = _start(evidence)
    left = torch.arange(evidence.units, device=weight_oi.device)
    is_gone = torch.zeros_like(left, dtype=torch.bool)
    costs_u = weight_oi.new_zeros(evidence.units)
    step, paid = -(-evidence.units // STEPS), 0.0
    for number in range(-(-evidence.units // step)):
        if number % COMPACT_EVERY == 0:
            kept = is_gone.logical_not().nonzero().squeeze(1)
            weight_oi, inverse_ii, left = weight_oi[:, kept], inverse_ii[kept][:, kept], left[kept]
            is_gone = torch.zeros_like(left, dtype=torch.bool)
        alone_u = weight_oi.square().sum(dim=0) / inverse_ii.diagonal()
        count = min(step, evidence.units - number * step)
        cheapest = alone_u.masked_fill(is_gone, torch.inf).topk(count, largest=False)
        gone = cheapest.indices
        # later ones matter no less: costs rise but for the error of taking several at once
        costs_u[left[gone]] = cheapest.values.clamp(min=paid)
        paid = max(float(cheapest.values.max()), paid)
        rows_su = inverse_ii[gone]
        update_su = torch.linalg.solve(rows_su[:, gone], rows_su)
        weight_oi.addmm_(weight_oi[:, gone], update_su, alpha=-1)
        inverse_ii.addmm_(rows_su.T, update_su, alpha=-1)
        is_gone[gone] = True
    return costs_u.sqrt().float()


def _start(evidence: Evidence) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight, so that losses are squared distances, and the inverse of the moments, both in float64."""
    import torch

    damped_ii = damp(evidence.measured.double(), DAMPING)
    weight_oi = evidence.weight_oi.double()
    if evidence.traced is not None:
        metric_oo = damp(evidence.traced.double(), 1e-6)
        weight_oi = factorize(metric_oo).T @ weight_oi
    return weight_oi, torch.cholesky_inverse(factorize(damped_ii))


CRITERION = Criterion(
    heads=Unit(input_moments, cost_alone, gradient_moments),
    neurons=Unit(input_moments, cost_in_turn, gradient_moments),
    by_layer=True,
    relative=True,
    suits_experts=False,
)
