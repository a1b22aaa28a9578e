"""AMP's importance.

That of a head is the L1 norm of its contribution to the residual stream, that of a neuron its absolute activation.
Source: arXiv 2504.21174 and `amp_criterion.py` of the paper's reference code.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from amp_export.pruning.criteria._criterion import Criterion, Unit, as_measured

if TYPE_CHECKING:
    import torch

CHUNK_TOKENS = 512
"""Tokens per chunk of one head's contributions: small enough for the cache of a core."""


def head_contributions(
    hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor, heads: int
) -> torch.Tensor:
    """Return the weighted sum over tokens of the L1 norm of each head's contribution to the residual stream.

    Heads and chunks of tokens are processed one at a time: [tokens, heads, hidden] would not fit in memory.

    Args:
        hidden_ti: The output projection's input, [tokens, heads * head_dim].
        weight_oi: Its weight, [hidden_size, heads * head_dim].
        weights_t: Weight of each token, [tokens].
        heads: Number of query heads.

    Returns:
        Sums by head, [heads].
    """
    import torch

    totals = hidden_ti.new_zeros(heads)
    chunks = max(1, math.ceil(len(hidden_ti) / CHUNK_TOKENS))
    for chunk_ti, chunk_weights_t in zip(hidden_ti.chunk(chunks), weights_t.chunk(chunks), strict=True):
        contribution_to = chunk_ti.new_empty(len(chunk_ti), len(weight_oi))
        slices = zip(chunk_ti.chunk(heads, dim=1), weight_oi.chunk(heads, dim=1), strict=True)
        for head, (head_td, weight_od) in enumerate(slices):
            torch.mm(head_td, weight_od.T, out=contribution_to)
            totals[head] += chunk_weights_t @ torch.linalg.vector_norm(contribution_to, ord=1, dim=1)
    return totals


def absolute_activations(
    hidden_ti: torch.Tensor, weight_oi: torch.Tensor, weights_t: torch.Tensor, neurons: int
) -> torch.Tensor:
    """Return the weighted sum over tokens of each neuron's absolute activation, [neurons]."""
    del weight_oi, neurons
    return weights_t @ hidden_ti.abs()


CRITERION = Criterion(
    heads=Unit(head_contributions, as_measured),
    neurons=Unit(absolute_activations, as_measured),
    reads_texts=False,
)
