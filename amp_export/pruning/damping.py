"""Damping of second moments, so that they can be inverted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def damp(moments_ii: torch.Tensor, share: float) -> torch.Tensor:
    """Return moments with a share of the mean of their diagonal added to it, [inputs, inputs]."""
    # an input that is always zero leaves nothing to divide by
    added = max(share * float(moments_ii.diagonal().mean()), 1e-30)
    return moments_ii + moments_ii.new_full((len(moments_ii),), added).diag()
