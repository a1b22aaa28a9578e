"""Tiny copies of configs keep a layer of each kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from amp_export.discovery.kinds import find_rule
from amp_export.discovery.tiny import SIZES, fewer_layers, sample, shrink
from amp_export.errors import UnsupportedModelError

KINDS = ("full_attention", "sliding_attention", "conv", "linear_attention")


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=5, max_size=40),
    switches=st.data(),
)
def test_a_tiny_copy_keeps_a_layer_of_each_kind(kinds: list[str], switches: st.DataObject) -> None:
    layers = len(kinds)
    rotated = switches.draw(st.lists(st.booleans(), min_size=layers, max_size=layers))
    measures = [0.5 + number for number in range(layers)]
    attending = [number for number, kind in enumerate(kinds) if kind.endswith("_attention")]
    given_fields = {
        "num_hidden_layers": layers,
        "layer_types": kinds,
        "rotated": rotated,
        "scales": measures,
        "attention_indices": attending,
        "hidden_size": 3,
    }
    fewer = fewer_layers(given_fields, "num_hidden_layers")
    assert given_fields["layer_types"] == kinds
    left = fewer["num_hidden_layers"]
    assert set(zip(fewer["layer_types"], fewer["rotated"], strict=True)) == set(zip(kinds, rotated, strict=True))
    assert min(layers, SIZES["num_hidden_layers"]) <= left == len(fewer["layer_types"]) == len(fewer["scales"])
    # a few of each and no more: the first of each kind, in their order
    assert left <= max(SIZES["num_hidden_layers"], len(set(zip(kinds, rotated, strict=True))))
    places = [measures.index(each) for each in fewer["scales"]]
    assert places == sorted(places)
    assert fewer["layer_types"] == [kinds[place] for place in places]
    if attending:
        expected = [number for number, kind in enumerate(fewer["layer_types"]) if kind.endswith("_attention")]
        assert fewer["attention_indices"] == expected
    assert "hidden_size" not in fewer


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8))
def test_the_field_that_says_which_layers_attend_is_found(kinds: list[str]) -> None:
    having = [number for number, kind in enumerate(kinds) if kind != "conv"]
    fields: dict[str, Any] = {"layer_types": kinds, "names": ["same"] * len(kinds), "numbers": having, "size": 3}
    rule = find_rule(fields, having, len(kinds))
    if len(having) == len(kinds):
        assert rule is None
    elif having:
        assert rule is not None
        assert rule.kinds == {"layer_types": tuple(sorted(set(kinds) - {"conv"}))}
        assert rule.numbers == "numbers"
        with pytest.raises(UnsupportedModelError, match="no config field says which"):
            find_rule({"size": 3}, having, len(kinds))


def test_defaults_that_follow_from_the_depth_are_kept_too() -> None:
    tiny = shrink("qwen3_5_text", "Qwen3_5ForCausalLM", {})
    assert tiny.fields["layer_types"] == ["linear_attention", "full_attention"]
    deep = {"num_hidden_layers": 16, "full_attn_idxs": [2, 5, 8, 10, 12, 14]}
    tiny = shrink("lfm2", "Lfm2ForCausalLM", deep)
    assert (tiny.fields["layer_types"], tiny.fields["full_attn_idxs"]) == (["conv", "full_attention"], [1])
    assert tiny.why_not() is None


def test_a_model_that_needs_more_than_its_main_input_is_refused() -> None:
    class Segmenter(PreTrainedModel):
        main_input_name = "pixel_values"

        def forward(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, scale: float = 1.0) -> None: ...

    with pytest.raises(UnsupportedModelError, match="Segmenter takes pixel_values with image_grid_thw, for"):
        sample(Segmenter(PreTrainedConfig()))


def test_patches_are_given_with_what_describes_them() -> None:
    fields = {"num_patches": 16, "patch_size": 4, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    config = AutoConfig.for_model("siglip2_vision_model", **fields, num_hidden_layers=1)
    given = sample(AutoModel.from_config(config))
    assert {name: tuple(value.shape) for name, value in given.items()} == {
        "pixel_values": (1, 6, 48),
        "pixel_attention_mask": (1, 6),
        "spatial_shapes": (1, 2),
    }
