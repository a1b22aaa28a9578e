"""Damping of second moments, so that they can be factorized and inverted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SMALLEST_SHARE = 1e-7
"""The first share to try: rounding to float32 is about this, relative to the largest entry."""


def damp(moments_ii: torch.Tensor, share: float) -> torch.Tensor:
    """Return moments with a share of the mean of their diagonal added to it, [inputs, inputs]."""
    # an input that is always zero leaves nothing to divide by
    added = max(share * float(moments_ii.diagonal().mean()), 1e-30)
    return moments_ii + moments_ii.new_full((len(moments_ii),), added).diag()


def factorize(moments_ii: torch.Tensor) -> torch.Tensor:
    """Return the lower Cholesky factor of moments, damped as far as they need it, [inputs, inputs].

    Sums of products in float32 are rounded, by more than the smallest eigenvalues where one direction outweighs the
    others by far: gradients and massive activations of trained models do. What is left below zero is rounding, and
    the damping that lifts it is of the same size. Moments that need none are factorized as they are.

    Args:
        moments_ii: Moments, float64 [inputs, inputs].

    Raises:
        LinAlgError: They are not finite, or no moments at all.
    """
    import torch

    factor_ii, failed = torch.linalg.cholesky_ex(moments_ii)
    share = SMALLEST_SHARE
    while failed and share < 1:
        factor_ii, failed = torch.linalg.cholesky_ex(damp(moments_ii, share))
        share *= 10
    found: torch.Tensor = torch.linalg.cholesky(moments_ii) if failed else factor_ii
    return found
