"""Moments that rounding to float32 left with eigenvalues below zero are factorized nevertheless."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amp_export.pruning.compensation.least_squares import RIDGES, Moments, solve
from amp_export.pruning.criteria import obs
from amp_export.pruning.criteria._criterion import Evidence
from amp_export.pruning.damping import factorize
from amp_export.quantizing import gptq

WIDTH = 24


def rounded_moments(tokens: int, outlier: float, seed: int, width: int = WIDTH) -> torch.Tensor:
    """Second moments, summed in float32, of tokens in which one direction is `outlier` times as strong as others."""
    generator = torch.Generator().manual_seed(seed)
    direction_1i = torch.randn(1, width, generator=generator)
    tokens_ti = torch.randn(tokens, width, generator=generator)
    tokens_ti = tokens_ti + outlier * torch.randn(tokens, 1, generator=generator) * direction_1i
    return tokens_ti.T @ tokens_ti


outliers = st.floats(min_value=0, max_value=7).map(lambda power: 10**power)


@settings(max_examples=40)
@given(tokens=st.integers(1, 64), outlier=outliers, seed=st.integers(0, 2**31))
@example(tokens=64, outlier=1e6, seed=0)
@example(tokens=3, outlier=1.0, seed=0)
def test_the_factor_is_that_of_the_moments_but_for_rounding(tokens: int, outlier: float, seed: int) -> None:
    moments_ii = rounded_moments(tokens, outlier, seed).double()
    factor_ii = factorize(moments_ii)
    # a sum in float32 of as many products may be off by this much
    allowed = WIDTH * tokens * torch.finfo(torch.float32).eps * float(moments_ii.diagonal().max())
    torch.testing.assert_close(factor_ii @ factor_ii.T, moments_ii, atol=allowed, rtol=0)
    assert torch.equal(factor_ii, factor_ii.tril())


@settings(max_examples=40)
@given(tokens=st.integers(1, 64), outlier=outliers, seed=st.integers(0, 2**31))
@example(tokens=64, outlier=1e6, seed=0)
def test_all_that_inverts_moments_takes_one_outlying_direction(tokens: int, outlier: float, seed: int) -> None:
    gram_ii, metric_oo = (rounded_moments(tokens, outlier, each) for each in (seed, seed + 1))
    weight_oi = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed + 2))
    evidence = Evidence(gram_ii, weight_oi, WIDTH, metric_oo)
    for judge in (obs.cost_alone, obs.cost_in_turn):
        assert judge(evidence).isfinite().all()
    moments = Moments(gram_ii.double(), (gram_ii @ weight_oi.T).double(), 1.0, tokens)
    assert solve(moments, weight_oi.double(), ridge=RIDGES[0], free=1).isfinite().all()
    assert gptq._inverse_factor(gram_ii).isfinite().all()


def test_moments_that_need_no_damping_are_factorized_as_they_are() -> None:
    moments_ii = rounded_moments(64, 1.0, 0).double()
    assert torch.equal(factorize(moments_ii), torch.linalg.cholesky(moments_ii))


def test_what_is_no_moment_matrix_is_an_error() -> None:
    for wrong in (-torch.eye(3, dtype=torch.float64), torch.full((3, 3), torch.nan, dtype=torch.float64)):
        with pytest.raises(torch.linalg.LinAlgError):
            factorize(wrong)
