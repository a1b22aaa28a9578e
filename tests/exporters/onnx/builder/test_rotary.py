from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HunYuanDenseV1Config, LlamaConfig
from transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense import HunYuanDenseV1RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from amp_export.errors import ModelError, UnsupportedModelError
from amp_export.exporters.onnx.builder.rotary import Rope, inverse_frequencies, rotary_caches, supported_rope_types

LLAMA_3_1 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 4096}

PARAMETERS = {
    "default": {"rope_type": "default", "rope_theta": 100000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    "llama3": LLAMA_3_1,
    "yarn": YARN,
    "yarn, attention factor given": {**YARN, "attention_factor": 0.7},
    "yarn, two mscales": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.3},
    "yarn, edges not rounded": {**YARN, "truncate": False, "beta_fast": 20, "beta_slow": 2},
    "linear, of half a head": {
        "rope_type": "linear",
        "rope_theta": 10000.0,
        "factor": 2.5,
        "partial_rotary_factor": 0.5,
    },
    "llama3, of half a head": {**LLAMA_3_1, "partial_rotary_factor": 0.5},
    "yarn, of half a head": {**YARN, "partial_rotary_factor": 0.5},
    "yarn, factor from the lengths": {**YARN, "factor": None},
}


def both(rope: dict[str, Any], head_dim: int = 64, positions: int = 16384) -> tuple[Rope, LlamaConfig]:
    fields = {
        "hidden_size": 2 * head_dim,
        "num_attention_heads": 2,
        "head_dim": head_dim,
        "max_position_embeddings": positions,
        "rope_parameters": dict(rope),
    }
    dimensions = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    return Rope(rope, dimensions, positions), LlamaConfig(**fields)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("rope", PARAMETERS.values(), ids=PARAMETERS)
def test_caches_agree_with_torch_at_every_position(rope: dict[str, Any], head_dim: int) -> None:
    ours, theirs = both(rope, head_dim)
    cosines, sines = rotary_caches(ours)
    expected = LlamaRotaryEmbedding(theirs)(torch.zeros(1), torch.arange(16384)[None])
    for cache, reference in zip((cosines, sines), expected, strict=True):
        assert cache.dtype == np.float32
        assert cache.shape == (16384, ours.dimensions // 2)
        np.testing.assert_allclose(cache, reference[0, :, : ours.dimensions // 2].numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "more", [{}, {"factor": 32.0}, {"attention_factor": 1.2}, {"partial_rotary_factor": 0.5}], ids=str
)
def test_longrope_has_one_half_of_the_caches_for_each_length_of_text(more: dict[str, Any]) -> None:
    head_dim, positions = 64, 300
    pairs = int(head_dim * more.get("partial_rotary_factor", 1.0)) // 2
    short, long = (list(np.random.default_rng(seed).uniform(1, 9, pairs)) for seed in (1, 2))
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": short, "long_factor": long}
    ours, theirs = both({**rope, "original_max_position_embeddings": 100, **more}, head_dim, positions)
    cosines, sines = rotary_caches(ours)
    assert cosines.shape == (2 * positions, pairs) == (ours.rows, pairs)
    for half, length in ((slice(0, 100), 100), (slice(positions, 2 * positions), positions)):
        expected = LlamaRotaryEmbedding(theirs)(torch.zeros(1), torch.arange(length)[None])
        for cache, reference in zip((cosines, sines), expected, strict=True):
            np.testing.assert_allclose(cache[half], reference[0, :, :pairs].numpy(), rtol=0, atol=1e-6)


@given(
    theta=st.floats(2.0, 1e7, width=32),
    head_dim=st.sampled_from([16, 48, 64, 80, 96, 128, 256]),
    rope=st.sampled_from(list(PARAMETERS.values())),
)
@settings(max_examples=60)
def test_frequencies_are_at_most_a_few_roundings_from_torch(theta: float, head_dim: int, rope: dict[str, Any]) -> None:
    ours, theirs = both({**rope, "rope_theta": theta}, head_dim)
    frequencies, factor = inverse_frequencies(ours)
    reference = LlamaRotaryEmbedding(theirs)
    # of the unscaled frequency: llama3 blends by a difference, which keeps its operands' roundings as it gets small
    default = {"rope_type": "default", "rope_theta": theta}
    unscaled, _ = inverse_frequencies(Rope(default, ours.dimensions, ours.positions))
    difference = np.abs(frequencies - reference.inv_freq.numpy())
    assert (difference <= 4 * np.finfo(np.float32).eps * unscaled).all()
    assert factor == reference.attention_scaling


def test_a_base_that_alpha_stretches_is_that_of_hunyuan() -> None:
    rope = {"rope_type": "ntk_alpha", "rope_theta": 1e4, "alpha": 1000.0}
    fields = {"hidden_size": 128, "num_attention_heads": 2, "head_dim": 64, "max_position_embeddings": 16384}
    theirs = HunYuanDenseV1Config(**fields, rope_parameters={**rope, "rope_type": "dynamic", "factor": 1.0})
    frequencies, factor = inverse_frequencies(Rope(rope, 64, 16384))
    reference = HunYuanDenseV1RotaryEmbedding(theirs)
    np.testing.assert_allclose(frequencies, reference.inv_freq.numpy(), rtol=4 * np.finfo(np.float32).eps)
    assert factor == reference.attention_scaling == 1.0


def test_an_unknown_type_is_refused_with_the_list_of_those_known() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'spiral'(.|\n)*" + ", ".join(supported_rope_types())):
        inverse_frequencies(Rope({"rope_type": "spiral", "rope_theta": 1e4}, 64, 128))


def test_a_parameter_that_is_missing_is_named() -> None:
    with pytest.raises(ModelError, match="factor, low_freq_factor, high_freq_factor"):
        inverse_frequencies(Rope({"rope_type": "llama3", "rope_theta": 1e4}, 64, 128))


@pytest.mark.parametrize("dimensions", [0, 7])
def test_dimensions_that_are_no_pairs_are_refused(dimensions: int) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{dimensions} dimensions"):
        inverse_frequencies(Rope({"rope_type": "default", "rope_theta": 1e4}, dimensions, 128))
