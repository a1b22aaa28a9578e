"""The fit of one linear layer, from moments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_export.pruning.compensation.least_squares import Moments, fit, solve

seeds = st.integers(0, 2**31)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments(inputs_ti: torch.Tensor, targets_to: torch.Tensor, weights_t: torch.Tensor | None = None) -> Moments:
    found = Moments.none(inputs_ti.shape[1], targets_to.shape[1])
    found.add(inputs_ti, targets_to, torch.ones(len(inputs_ti)) if weights_t is None else weights_t)
    return found


@settings(max_examples=20)
@given(seed=seeds, width=st.integers(1, 12), outputs=st.integers(1, 5))
def test_without_a_ridge_it_is_the_least_squares_solution(seed: int, width: int, outputs: int) -> None:
    inputs_ti, targets_to = draw(seed, 4 * width, width), draw(seed + 1, 4 * width, outputs)
    weights_t = draw(seed + 2, 4 * width).abs() + 0.1
    roots_t1 = weights_t.sqrt()[:, None]
    expected_io = torch.linalg.lstsq((inputs_ti * roots_t1).double(), (targets_to * roots_t1).double()).solution
    solved_oi = solve(moments(inputs_ti, targets_to, weights_t), draw(seed, outputs, width).double(), ridge=1e-12)
    torch.testing.assert_close(solved_oi, expected_io.T, rtol=1e-3, atol=1e-4)


@settings(max_examples=20)
@given(seed=seeds, ridge=st.floats(1e-3, 10))
def test_the_solution_is_a_minimum(seed: int, ridge: float) -> None:
    inputs_ti, targets_to, old_oi = draw(seed, 60, 6), draw(seed + 1, 60, 3), draw(seed + 2, 3, 6).double()
    found = moments(inputs_ti, targets_to)
    pull = ridge * float(found.gram_ii.diagonal().mean())

    def cost(weight_oi: torch.Tensor) -> float:
        return found.error(weight_oi) * found.power + pull * float((weight_oi - old_oi).square().sum())

    solved_oi = solve(found, old_oi, ridge=ridge)
    for number in range(5):
        assert cost(solved_oi + 0.01 * draw(seed + number, 3, 6).double()) > cost(solved_oi)


def test_a_strong_ridge_leaves_the_weight_as_it_was() -> None:
    old_oi = draw(0, 3, 6).double()
    solved_oi = solve(moments(draw(1, 60, 6), draw(2, 60, 3)), old_oi, ridge=1e9)
    torch.testing.assert_close(solved_oi, old_oi, rtol=1e-6, atol=1e-6)


def test_the_ridge_does_not_hold_a_bias() -> None:
    inputs_ti = torch.cat((draw(0, 200, 4), torch.ones(200, 1)), dim=1)
    found = moments(inputs_ti, torch.full((200, 2), 3.0))
    solved_oi = solve(found, torch.zeros(2, 5, dtype=torch.float64), ridge=1e6, free=1)
    torch.testing.assert_close(solved_oi[:, -1], torch.full((2,), 3.0, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_a_column_without_input_stays_zero() -> None:
    inputs_ti = draw(0, 60, 6)
    inputs_ti[:, 4] = 0
    old_oi = draw(1, 3, 6).double()
    old_oi[:, 4] = 0
    solved_oi = solve(moments(inputs_ti, draw(2, 60, 3)), old_oi, ridge=0.1)
    assert not solved_oi[:, 4].any()
    assert (solved_oi - old_oi).abs().max() > 0.1


@pytest.mark.parametrize("tokens", [6, 3])
def test_few_tokens_shorten_the_update(tokens: int) -> None:
    inputs_ti, targets_to, old_oi = draw(0, tokens, 6), draw(1, tokens, 3), torch.zeros(3, 6, dtype=torch.float64)
    few = moments(inputs_ti, targets_to)
    many = moments(inputs_ti.repeat(12, 1), targets_to.repeat(12, 1))
    torch.testing.assert_close(
        solve(few, old_oi, ridge=0.1), solve(many, old_oi, ridge=0.1) * tokens / 12, rtol=1e-5, atol=1e-6
    )


def test_an_update_that_held_out_tokens_contradict_is_not_made() -> None:
    inputs_ti, old_oi = draw(0, 60, 6), draw(1, 3, 6)
    training = moments(inputs_ti, -(inputs_ti @ old_oi.T))
    held_out = moments(inputs_ti, inputs_ti @ old_oi.T)
    found = fit(training, held_out, old_oi)
    assert found.ridge is None
    torch.testing.assert_close(found.weight_oi, old_oi.double())


def test_the_ridge_grows_with_the_noise() -> None:
    weight_oi, old_oi = draw(0, 3, 20), torch.zeros(3, 20)

    def chosen(noise: float) -> float:
        halves = []
        for seed in (1, 2):
            inputs_ti = draw(seed, 50, 20)
            halves.append(moments(inputs_ti, inputs_ti @ weight_oi.T + noise * draw(seed + 7, 50, 3)))
        found = fit(halves[0], halves[1], old_oi)
        assert found.ridge is not None
        assert found.after < found.before
        return found.ridge

    assert chosen(0.0) < chosen(8.0)
