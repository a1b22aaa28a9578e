"""Noise is the worst of several runs that round in different ways, and measuring it leaves the model as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from amp_export.checkpoints.loading import load_model
from amp_export.parity.noise import DISTURBED_RUNS, disturbed, draw_rounding

TOKENS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> PreTrainedModel:
    return load_model(tiny_llama)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(TOKENS).logits.double()
    return result


def test_the_first_run_is_undisturbed_and_all_others_differ(model: PreTrainedModel) -> None:
    runs = list(draw_rounding(model, logits))
    assert len(runs) == DISTURBED_RUNS + 1
    assert torch.equal(runs[0], logits(model)), "the hooks are gone"
    assert len({tuple(run.flatten().tolist()) for run in runs}) == len(runs)
    assert all(torch.equal(*pair) for pair in zip(runs, draw_rounding(model, logits), strict=True)), (
        "the same each time"
    )


def test_what_is_disturbed_is_as_far_off_as_rounding_is(model: PreTrainedModel, tiny_llama: Path) -> None:
    exact = logits(load_model(tiny_llama, dtype=torch.float64))
    undisturbed, *others = (abs(run - exact).mean() for run in draw_rounding(model, logits))
    assert all(undisturbed / 2 < other < 8 * undisturbed for other in others)


@given(
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.floats(-1000, 1000, width=16).filter(lambda value: abs(value) > 1e-3),
    st.integers(0, 2**32),
)
def test_each_number_moves_by_an_epsilon_at_most_and_on_average_by_little(
    dtype: torch.dtype, value: float, seed: int
) -> None:
    layer = torch.nn.Linear(1, 4000, bias=False, dtype=dtype)
    torch.nn.init.constant_(layer.weight, value)
    layer.device = torch.device("cpu")
    with disturbed(layer, seed=seed), torch.inference_mode():
        moved = layer(torch.ones(1, dtype=dtype)).double()
    number = layer.weight[0, 0].item()
    epsilon = torch.finfo(dtype).eps * abs(number)
    assert (abs(moved - number) <= epsilon).all()
    assert (moved != number).any()
    # a power of two has a neighbour below that is nearer than the one above
    assert abs(moved.mean() - number) < 0.2 * epsilon
