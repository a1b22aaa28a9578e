"""Least squares for one linear layer, from the moments of its inputs and of the outputs that it should have.

A layer with weight W and inputs a should compute t. The weight that is fitted minimises, summed over tokens,
`w |t - W a|² + ridge * mean(diag(sum w a aᵀ)) * |W - W_old|²`: a ridge that pulls towards the weight as it was, because
few tokens say little about a wide layer. Moments and solve are in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.pruning.damping import factorize

if TYPE_CHECKING:
    import torch

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridges to choose from, as multiples of the mean of the inputs' second moments.

On SmolLM2-135M, 1 to 3 were best with 5,000 tokens for 1,000 inputs; more tokens need less.
"""

ROWS_PER_COLUMN = 2
"""Tokens per column from which a fit is trusted fully; with fewer, its update is shortened in proportion."""


@dataclass
class Moments:
    """Second moments of a layer's inputs and of the outputs that it should have, summed over weighted tokens.

    Attributes:
        gram_ii: Sum of a aᵀ, float64 [inputs, inputs].
        cross_io: Sum of a tᵀ, float64 [inputs, outputs].
        power: Sum of |t|².
        tokens: Number of tokens.
    """

    gram_ii: torch.Tensor
    cross_io: torch.Tensor
    power: float = 0.0
    tokens: int = 0

    @classmethod
    def none(cls, inputs: int, outputs: int, *, device: torch.device | None = None) -> Moments:
        """Return the moments of no tokens, on a device."""
        import torch

        zeros = functools.partial(torch.zeros, dtype=torch.float64, device=device)
        return cls(zeros(inputs, inputs), zeros(inputs, outputs))

    def add(self, inputs_ti: torch.Tensor, targets_to: torch.Tensor, weights_t: torch.Tensor) -> None:
        """Add tokens.

        Args:
            inputs_ti: Inputs, [tokens, inputs].
            targets_to: Outputs that the layer should have, [tokens, outputs].
            weights_t: Weight of each token, [tokens].
        """
        roots_t1 = weights_t.float().sqrt()[:, None]
        inputs_ti, targets_to = inputs_ti.float() * roots_t1, targets_to.float() * roots_t1
        self.gram_ii += inputs_ti.T @ inputs_ti
        self.cross_io += inputs_ti.T @ targets_to
        self.power += float(targets_to.double().square().sum())
        self.tokens += len(inputs_ti)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.gram_ii + other.gram_ii,
            self.cross_io + other.cross_io,
            self.power + other.power,
            self.tokens + other.tokens,
        )

    def error(self, weight_oi: torch.Tensor) -> float:
        """Return the squared error of a weight, as a share of the power of the targets."""
        spent = ((weight_oi @ self.gram_ii) * weight_oi).sum() - 2 * (weight_oi.T * self.cross_io).sum()
        return max(self.power + float(spent), 0.0) / (self.power or 1.0)


@dataclass(frozen=True)
class Fit:
    """A fitted weight.

    Attributes:
        weight_oi: The weight, float64 [outputs, inputs].
        ridge: The ridge that was chosen, or None if no update was better than none.
        before: Squared error on held-out tokens without an update, as a share of the targets' power.
        after: The same with the update that the other tokens lead to.
    """

    weight_oi: torch.Tensor
    ridge: float | None
    before: float
    after: float


def fit(
    training: Moments, held_out: Moments, weight_oi: torch.Tensor, *, ridges: Sequence[float] = RIDGES, free: int = 0
) -> Fit:
    """Return the weight that fits best, with the ridge that is best on held-out tokens.

    Args:
        training: Moments of the tokens to fit.
        held_out: Moments of the tokens to choose the ridge on; the returned weight is fitted to these, too.
        weight_oi: The weight without an update, [outputs, inputs].
        ridges: Ridges to choose from.
        free: Number of last inputs that the ridge does not hold, such as the constant that a bias multiplies.
    """
    old_oi = weight_oi.double()
    before = held_out.error(old_oi)
    ridge, after = _descend(ridges, lambda ridge: held_out.error(solve(training, old_oi, ridge=ridge, free=free)))
    # an error that is NaN is not smaller
    if not after < before:
        return Fit(old_oi, None, before, before)
    return Fit(solve(training + held_out, old_oi, ridge=ridge, free=free), ridge, before, after)


def _descend(ridges: Sequence[float], error: Callable[[float], float]) -> tuple[float, float]:
    """Return the ridge with the smallest error, and that error, from the middle down: errors have a single minimum."""
    errors: dict[int, float] = {}

    def at(place: int) -> float:
        if not 0 <= place < len(ridges):
            return math.inf
        if place not in errors:
            errors[place] = error(ridges[place])
        return errors[place]

    place = len(ridges) // 2
    step = 1 if at(place + 1) < at(place) else -1
    while at(place + step) < at(place):
        place += step
    return ridges[place], at(place)


def solve(moments: Moments, weight_oi: torch.Tensor, *, ridge: float, free: int = 0) -> torch.Tensor:
    """Return the weight that minimises the error with a ridge, float64 [outputs, inputs].

    Args:
        moments: Moments of the tokens.
        weight_oi: The weight that the ridge pulls towards, float64 [outputs, inputs].
        ridge: Strength of the pull, as a multiple of the mean of the diagonal of the inputs' moments.
        free: Number of last inputs that it does not hold.
    """
    import torch

    width = len(moments.gram_ii)
    diagonal_i = moments.gram_ii.diagonal()
    held = width - free
    mean = float(diagonal_i[:held].mean())
    if not mean > 0:
        return weight_oi
    pull_i = torch.full_like(diagonal_i, ridge * mean)
    # never none at all: a constant without a token would have no solution
    pull_i[held:] = 1e-9 * mean
    system_ii = moments.gram_ii + pull_i.diag()
    residual_io = moments.cross_io - moments.gram_ii @ weight_oi.T
    update_oi = torch.cholesky_solve(residual_io, factorize(system_ii)).T
    return weight_oi + min(1.0, moments.tokens / (ROWS_PER_COLUMN * width)) * update_oi
