from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.architectures import LayerWidths, ModelConfig, find_architecture
from amp_export.options import HeadPolicy, PerLayer
from amp_export.pruning.allocation import allocate_heads, allocate_neurons, allocate_steps
from amp_export.pruning.plan import check_fit
from amp_export.pruning.scores import Scores
from amp_export.pruning.settings import PlanSettings
from tests.support.plans import make_plan

RAW = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
}
CONFIG = ModelConfig.read(find_architecture("llama"), RAW)


@given(st.lists(st.lists(st.floats(0, 100), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(min_value=0))
def test_the_best_steps_are_taken_and_none_is_left_empty(worths: list[list[float]], budget: int) -> None:
    steps = [np.sort(np.asarray(layer))[::-1] for layer in worths]
    budget %= 3 * len(steps) + 1
    counts = allocate_steps(steps, budget)
    assert min(counts) >= 1
    assert sum(counts) == max(budget, len(steps))
    possible = [choice for choice in itertools.product((1, 2, 3), repeat=len(steps)) if sum(choice) == sum(counts)]
    best = max(sum(layer[:count].sum() for layer, count in zip(steps, choice, strict=True)) for choice in possible)
    found = sum(layer[:count].sum() for layer, count in zip(steps, counts, strict=True))
    assert found == pytest.approx(best)


def test_layers_whose_activations_are_larger_keep_no_more_for_that() -> None:
    even, peaked = np.ones(6, np.float32), np.asarray([10, 0.1, 10, 0.1, 10, 0.1], np.float32)
    heads = [even, 1000 * even, peaked, 1000 * peaked]
    spread = allocate_heads(CONFIG, heads, HeadPolicy.WITHIN, LayerWidths(3, 3, 40))
    assert spread[0] == spread[1]
    assert spread[2] == spread[3]
    neurons = [np.arange(1, 41, dtype=np.float32), 50 * np.arange(1, 41, dtype=np.float32)]
    assert allocate_neurons(neurons, 16, multiple=8) == [16, 16]


def test_a_layer_keeps_whole_steps_or_all_it_has() -> None:
    flat, peaked = np.ones(40, np.float32), np.r_[np.full(4, 100), np.full(36, 0.01)].astype(np.float32)
    assert allocate_neurons([flat, peaked], 24, multiple=8) == [40, 8]
    assert allocate_neurons([flat, flat], 40, multiple=16) == [40, 40]


@given(
    width=st.integers(8, 60),
    multiple=st.integers(1, 24),
    layers=st.integers(1, 5),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_smaller_last_step_counts_as_what_it_is(
    width: int, multiple: int, layers: int, share: float, seed: int
) -> None:
    multiples = [*range(multiple, width, multiple), width]
    kept = multiples[round(share * (len(multiples) - 1))]
    neurons = [np.random.default_rng((seed, layer)).gamma(0.5, size=width) for layer in range(layers)]
    counts = allocate_neurons(neurons, kept, multiple=multiple)
    assert set(counts) <= set(multiples)
    assert kept * layers - multiple < sum(counts) <= kept * layers


@given(
    st.floats(0.1, 0.35),
    st.sampled_from([HeadPolicy.GROUPS, HeadPolicy.WITHIN, HeadPolicy.AUTO, HeadPolicy.NONE]),
    st.sampled_from(PerLayer),
    st.sampled_from(PerLayer),
    st.integers(0, 99),
)
def test_every_spread_plan_fits_its_model(
    ratio: float, policy: HeadPolicy, heads: PerLayer, neurons: PerLayer, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    scores = Scores(
        heads=tuple(generator.gamma(0.5, size=6).astype(np.float32) for _ in range(4)),
        neurons=tuple(generator.gamma(0.5, size=40).astype(np.float32) for _ in range(4)),
        origin="random",
    )
    settings = PlanSettings(ratio, heads=policy, snap=1, heads_per_layer=heads, neurons_per_layer=neurons)
    plan = make_plan(RAW, CONFIG, scores, settings)
    check_fit(plan.layers, CONFIG, origin="test")
    uniform = make_plan(RAW, CONFIG, scores, PlanSettings(ratio, heads=policy, snap=1))
    # the same heads and neurons in all, so the same budget
    assert plan.achieved == pytest.approx(uniform.achieved)
    if heads is neurons is PerLayer.UNIFORM:
        assert len(set(plan.widths)) == 1
