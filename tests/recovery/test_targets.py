"""The divergence from stored predictions: exact if all tokens are stored, and a lower bound otherwise."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_export.recovery.targets import divergence, take_targets

SIZES = st.integers(2, 40)
SCALES = st.floats(0.1, 30.0)


def draw(seed: int, vocabulary: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    dense_pv, other_pv = torch.randn(2, 5, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale
    return dense_pv, other_pv


def exact(dense_pv: torch.Tensor, other_pv: torch.Tensor) -> torch.Tensor:
    dense_log, other_log = dense_pv.double().log_softmax(1), other_pv.double().log_softmax(1)
    return (dense_log.exp() * (dense_log - other_log)).sum(1)


@settings(max_examples=40)
@given(st.integers(0, 999), SIZES, SCALES)
def test_with_all_tokens_it_is_the_divergence(seed: int, vocabulary: int, scale: float) -> None:
    dense_pv, other_pv = draw(seed, vocabulary, scale)
    for k in (vocabulary, vocabulary + 7):
        found = divergence(other_pv, take_targets(dense_pv, k))
        torch.testing.assert_close(found.double(), exact(dense_pv, other_pv), rtol=1e-4, atol=1e-5 * scale)


@settings(max_examples=40)
@given(st.integers(0, 999), SIZES, SCALES)
def test_more_tokens_bring_it_closer_from_below(seed: int, vocabulary: int, scale: float) -> None:
    dense_pv, other_pv = draw(seed, vocabulary, scale)
    bounds = torch.stack([divergence(other_pv, take_targets(dense_pv, k)) for k in range(1, vocabulary + 1)]).double()
    slack = 1e-4 * (1 + exact(dense_pv, other_pv))
    assert (bounds >= -slack).all()
    assert (bounds[1:] >= bounds[:-1] - slack).all()
    assert (bounds <= exact(dense_pv, other_pv) + slack).all()


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(2, 20), st.integers(1, 25))
def test_it_is_least_where_both_agree_and_its_gradient_is_zero_there(seed: int, vocabulary: int, k: int) -> None:
    dense_pv, _ = draw(seed, vocabulary, 2.0)
    logits_pv = dense_pv.clone().requires_grad_()
    found_p = divergence(logits_pv, take_targets(dense_pv, k))
    torch.testing.assert_close(found_p, torch.zeros(5), rtol=0, atol=1e-5)
    torch.autograd.backward(found_p.sum())
    torch.testing.assert_close(logits_pv.grad, torch.zeros_like(dense_pv), rtol=0, atol=1e-5)


def test_gradients_stay_finite_where_the_rest_has_no_probability() -> None:
    dense_pv = torch.tensor([[400.0, 0.0, -400.0, 0.0]])
    logits_pv = torch.zeros(1, 4, requires_grad=True)
    found_p = divergence(logits_pv, take_targets(dense_pv, 2))
    torch.testing.assert_close(found_p, torch.tensor([4.0]).log())
    torch.autograd.backward(found_p.sum())
    assert logits_pv.grad.isfinite().all()
