"""Layers of several kinds: which attend, as a config says it and as transformers builds it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_export.architectures import ModelConfig, find_architecture, supported_model_types
from amp_export.architectures._layer_rules import LayerRule, read_layers
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import ModelError, UnsupportedModelError
from amp_export.exporters.support import can_export
from amp_export.options import Format, PerLayer
from amp_export.pruning.rewriting import rewrite
from amp_export.pruning.settings import PlanSettings
from amp_export.pruning.slicing import prune_module
from tests.support.family_runner import mask, measured_scores, run
from tests.support.plans import make_plan
from tests.support.tiny_models import (
    FAMILY_FIELDS,
    OTHER_KINDS,
    TINY_CONFIG,
    family_fields,
    least_fields,
    save_tiny_model,
)

MIXED = [name for name in supported_model_types() if find_architecture(name).attention_layers is not None]

WRITTEN = {
    "bamba": ({"attn_layer_indices": [1, 2]},),
    "granitemoehybrid": ({"layer_types": ["mamba", "attention", "linear_attention", "full_attention"]},),
    "lfm2": ({"full_attn_idxs": [0, 3]}, {"layer_types": ["conv", "full_attention", "conv", "conv"]}, {}),
    "qwen3_next": ({}, {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}),
    "qwen3_5_text": (
        {},
        {"full_attention_interval": 3},
        {"layer_types": ["full_attention"] * 3 + ["linear_attention"]},
    ),
}
"""Ways in which configs say which of four layers attend."""


def test_every_family_of_several_kinds_is_tried() -> None:
    assert set(MIXED) == set(WRITTEN) >= set(OTHER_KINDS)


@pytest.mark.parametrize(
    ("model_type", "fields"), [(name, fields) for name, ways in WRITTEN.items() for fields in ways]
)
def test_the_layers_that_attend_are_those_that_transformers_builds(model_type: str, fields: dict[str, Any]) -> None:
    architecture = find_architecture(model_type)
    tiny = {**TINY_CONFIG, **FAMILY_FIELDS[model_type], "num_hidden_layers": 4}
    assert architecture.attention_layers is not None
    by_kind = {name: value for name, value in tiny.items() if name not in architecture.attention_layers.names}
    raw = {**by_kind, **fields}
    with torch.device("meta"):
        model = getattr(transformers, architecture.class_name)(transformers.AutoConfig.for_model(model_type, **raw))
    sites = ModelConfig.read(architecture, raw).sites
    built = [
        any(f"{site.path}.{architecture.attention.output.name}" == name for name, _ in model.named_modules())
        for site in sites
    ]
    assert [site.stack.attention is not None for site in sites] == built
    assert [site.widths.query_heads > 0 for site in sites] == built
    assert [site.widths.neurons > 0 for site in sites] == [True] * 4


@pytest.mark.parametrize("model_type", ["bamba", "falcon_h1", "granitemoehybrid"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"mamba_n_heads": 64}, {"mamba_d_head": "auto"}, {"mamba_d_ssm": 512}, {"mamba_d_ssm": None}],
    ids=str,
)
def test_the_width_of_a_mixers_head_is_that_of_transformers(model_type: str, fields: dict[str, Any]) -> None:
    # only Falcon-H1 has a width of the mixer apart from the model's
    known = find_architecture(model_type).defaults.keys()
    raw = {**least_fields(model_type), **{name: value for name, value in fields.items() if name in known}}
    theirs = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(raw)).mamba_d_head
    assert ModelConfig.read(find_architecture(model_type), raw).size("mamba_d_head") == theirs


@given(
    neurons=st.integers(8, 4096),
    factor=st.floats(0.5, 2.0),
    multiple=st.integers(1, 256),
    adjusts=st.booleans(),
    alias=st.booleans(),
)
@settings(max_examples=50)
def test_widths_that_follow_from_others_are_those_that_transformers_builds(
    neurons: int, factor: float, multiple: int, *, adjusts: bool, alias: bool
) -> None:
    from transformers.models.lfm2.modeling_lfm2 import Lfm2MLP

    raw = {
        **TINY_CONFIG,
        "block_ff_dim" if alias else "intermediate_size": neurons,
        "block_ffn_dim_multiplier": factor,
        "block_multiple_of": multiple,
        "block_auto_adjust_ff_dim": adjusts,
    }
    config = ModelConfig.read(find_architecture("lfm2"), raw)

    def built(fields: dict[str, Any]) -> int:
        with torch.device("meta"):
            return Lfm2MLP(transformers.AutoConfig.for_model("lfm2", **fields)).w2.in_features

    assert config.intermediate_size == built(raw)
    fewer = config.everywhere(config.widths)
    pruned = [type(each)(each.query_heads, each.key_value_heads, 5) for each in fewer]
    written = rewrite(raw, config, pruned)
    assert built(dict(written.config)) == 5
    assert ModelConfig.read(find_architecture("lfm2"), written.config).intermediate_size == 5


@given(st.data())
def test_each_way_of_naming_layers_means_the_same(data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, 12))
    chosen = data.draw(st.frozensets(st.integers(0, layers - 1)))
    first = data.draw(st.integers(0, layers))
    rule = LayerRule(kinds={"kinds": ("a", "b")}, numbers="numbers", every="every", after="after", before="before")
    kinds = ["a" if number in chosen else "c" for number in range(layers)]
    assert read_layers(rule, {"kinds": kinds, "numbers": [0]}, layers) == chosen
    assert read_layers(rule, {"numbers": sorted(chosen), "every": 1}, layers) == chosen
    assert read_layers(rule, {"every": 2}, layers) == set(range(1, layers, 2))
    assert read_layers(rule, {"before": first}, layers) == set(range(layers - first))
    assert read_layers(replace(rule, when={"switch": True}), {"before": first}, layers) == set(range(layers))
    assert read_layers(rule, {"after": first}, layers) == set(range(first, layers))
    assert read_layers(replace(rule, otherwise=False), {}, layers) == set()
    assert read_layers(rule, {}, layers) == read_layers(None, {}, layers) == set(range(layers))


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"layer_types": ["conv"] * 3}, UnsupportedModelError, "leaves no layer with attention"),
        ({"layer_types": ["full_attention"]}, ModelError, "a list of the kinds of 3 layers"),
        ({"full_attn_idxs": [3]}, ModelError, "numbers of layers, 0 to 2"),
        ({"full_attn_idxs": "all"}, ModelError, "numbers of layers, 0 to 2"),
    ],
)
def test_fields_that_contradict_themselves_are_refused(
    fields: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ModelConfig.read(find_architecture("lfm2"), {**TINY_CONFIG, **fields})


SHARED = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}

LEFT_AS_THEY_ARE = {
    "keys of others": ("gemma4_text", SHARED, []),
    "twice as wide": ("gemma4_text", {**SHARED, "use_double_wide_mlp": True}, [2, 3]),
    "values that are keys": (
        "gemma4_text",
        {**SHARED, "num_kv_shared_layers": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
        [],
    ),
    "few active neurons": ("gemma3n_text", {**SHARED, "activation_sparsity_pattern": [0.9, 0.0, 0.9, 0.0]}, [0, 2]),
}
"""Models of which some MLPs stay, with the numbers of their layers."""


@pytest.mark.parametrize("name", LEFT_AS_THEY_ARE)
def test_layers_that_differ_are_left_as_they_are(name: str, tmp_path: Path) -> None:
    model_type, fields, stay = LEFT_AS_THEY_ARE[name]
    checkpoint = open_checkpoint(save_tiny_model(tmp_path, model_type, **fields))
    config, dense = checkpoint.config, load_model(tmp_path)
    assert [number for number, site in enumerate(config.sites) if site.stack.mlp is None] == stay
    choices = PlanSettings(0.05, snap=1, neurons_per_layer=PerLayer.GLOBAL)
    plan = make_plan(checkpoint.raw_config, config, measured_scores(dense, config), choices)
    pruned = prune_module(copy.deepcopy(dense), config, plan).double()
    for number, site in enumerate(config.sites):
        down = pruned.get_submodule(f"{site.path}.mlp.down_proj")
        assert torch.equal(down.weight, dense.get_submodule(f"{site.path}.mlp.down_proj").weight) == (number in stay)
    found, expected = (run(model, config) for model in (pruned, mask(dense, config, plan)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # what was removed mattered
    assert not torch.allclose(found, run(dense.double(), config), rtol=0, atol=1e-3)
    if config.fields["num_kv_shared_layers"]:
        assert "num_kv_shared_layers is 2" in str(can_export(config, Format.ONNX))


def test_a_dense_first_layer_is_counted_as_before() -> None:
    raw = family_fields("deepseek_v3", {**TINY_CONFIG, **FAMILY_FIELDS["deepseek_v3"]})
    sites = ModelConfig.read(find_architecture("deepseek_v3"), raw).sites
    assert [site.stack.mlp is None for site in sites] == [True, False, False]
