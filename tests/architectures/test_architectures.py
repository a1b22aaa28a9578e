from __future__ import annotations

import copy
import math
import operator
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import CONFIG_MAPPING

from amp_export import architectures
from amp_export.architectures import (
    Architecture,
    ModelConfig,
    Total,
    describes,
    find_architecture,
    flatten_parts,
    matrix_shapes,
    parameter_count,
    supported_model_types,
)
from amp_export.architectures._facts import MAY_BE_IGNORED
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import ModelError, UnsupportedModelError
from tests.support.tiny_models import BUILDABLE, FAMILY_FIELDS, family_fields, least_fields, save_tiny_model

SMALL = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
}

FAMILIES = pytest.mark.parametrize("model_type", supported_model_types())


ROPE_FIELDS = {"partial_rotary_factor": "partial_rotary_factor", "rotary_pct": "partial_rotary_factor"}
"""Fields that transformers 5 reads into `rope_parameters`, and under which name."""


@pytest.mark.parametrize("model_type", [*supported_model_types(), "xlm_roberta", "_config", "absent", ""])
def test_a_type_is_described_by_the_file_of_its_name_and_no_other_is_read(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, read = architectures._load, set[str]()

    def noted(name: str) -> Architecture:
        read.add(name)
        return load(name)

    monkeypatch.setattr(architectures, "_load", noted)
    assert describes(model_type) == (model_type in supported_model_types())
    assert read <= {model_type.replace("-", "_")}


@FAMILIES
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    architecture = find_architecture(model_type)
    config = CONFIG_MAPPING[model_type]()
    for name, value in architecture.defaults.items():
        # None marks what is derived from other fields, and a window that is off reads as None
        if name in ROPE_FIELDS:
            assert config.rope_parameters[ROPE_FIELDS[name]] == value, name
        elif value is not None and name != "sliding_window":
            assert operator.attrgetter(name)(config) == value, name
    own = getattr(transformers, architecture.class_name).config_class is type(config)
    assert own or transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__ == architecture.class_name


@FAMILIES
def test_every_field_of_the_config_class_is_known(model_type: str) -> None:
    architecture = find_architecture(model_type)
    known = architecture.defaults.keys() | architecture.ignored | MAY_BE_IGNORED
    fields = flatten_parts(CONFIG_MAPPING[model_type]().to_dict(), architecture.parts)
    assert {name for name in fields if name.rpartition(".")[2] not in MAY_BE_IGNORED} <= known


EMPTY = pytest.mark.parametrize(
    ("model_type", "raw"),
    [
        *((model_type, {}) for model_type in BUILDABLE),
        ("falcon", {"new_decoder_architecture": True}),
        ("falcon", {"multi_query": False}),
        ("gemma2", {"num_hidden_layers": 5, "sliding_window": 9}),
        ("gemma3_text", {"num_hidden_layers": 5, "sliding_window_pattern": 3}),
        ("gemma3_text", {"rope_theta": 7e5, "rope_local_base_freq": 3e4}),
        ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("gemma3_text", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}}}),
        ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 25000}),
        ("gpt_neox", {"rope_theta": 25000.0}),
        ("mistral", {"sliding_window": None}),
        ("smollm3", {"num_key_value_heads": None}),
        ("phi", {"partial_rotary_factor": 0.4, "rope_theta": 5e4}),
        ("phi", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4, "partial_rotary_factor": 0.25}}),
        ("phi3", {"sliding_window": 7, "partial_rotary_factor": 0.75}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 20}),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 8}),
        ("gpt_oss", {"num_hidden_layers": 5, "sliding_window": 8}),
        ("gpt_oss", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}),
        ("qwen3", {"sliding_window": 8}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8, "no_rope_layer_interval": 3}),
        ("smollm3", {"no_rope_layers": [1, 0] * 18, "use_sliding_window": True, "sliding_window": 8}),
        ("stablelm", {"partial_rotary_factor": 1.0}),
        ("starcoder2", {"sliding_window": 8}),
        ("cohere2", {"sliding_window_pattern": 3, "num_hidden_layers": 5}),
        ("exaone4", {"sliding_window_pattern": 3, "num_hidden_layers": 5}),
        ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 32}),
        ("glm", {"partial_rotary_factor": 0.25}),
        ("hunyuan_v1_dense", {"rope_theta": 7e5, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("ministral", {"sliding_window": None}),
        ("ministral", {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}),
        ("olmo3", {"num_hidden_layers": 5, "rope_theta": 7e5, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    ],
)


POSITIONS_WITHOUT_PARAMETERS = ("gpt2", "gpt_bigcode", "gptj", "opt")
"""Decoders whose configs have no `rope_parameters`."""

ROTATED_WITHIN_WINDOWS = ("cohere2", "exaone4")
"""Families in which layers with full attention apply no rotary embeddings, if others have a window."""


def rotated(config: Any) -> list[bool]:
    """Whether each layer applies rotary embeddings, by what its module reads."""
    if config.model_type in ROTATED_WITHIN_WINDOWS and config.sliding_window is not None:
        return [kind == "sliding_attention" for kind in config.layer_types]
    applies = hasattr(config, "rope_parameters") and getattr(config, "position_embedding_type", "rope") == "rope"
    everywhere = [config.model_type == "gptj" or applies] * config.num_hidden_layers
    return list(map(bool, getattr(config, "no_rope_layers", everywhere)))


@EMPTY
def test_what_a_config_leaves_out_is_understood_as_transformers_understands_it(
    model_type: str, raw: dict[str, Any]
) -> None:
    architecture = find_architecture(model_type)
    raw = {**least_fields(model_type), **raw}
    config = CONFIG_MAPPING[model_type](**copy.deepcopy(raw))
    read = ModelConfig.read(architecture, {"model_type": model_type, **raw})
    key_value_heads = getattr(config, architecture.field_name("num_key_value_heads") or "", None)
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        key_value_heads = 1
    assert read.num_key_value_heads == (key_value_heads or config.num_attention_heads)
    assert read.head_dim == (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if model_type not in POSITIONS_WITHOUT_PARAMETERS:
        # transformers keeps the old name of the type, too
        theirs = {name: value for name, value in (config.rope_parameters or {}).items() if name != "type"}
        assert read.rope_parameters == theirs
    assert [kind is not None for kind in read.layer_ropes] == rotated(config)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    assert read.sliding_windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        assert read.fields.get(name) == getattr(config, name, None)


def bias_fields(model_type: str) -> set[str]:
    architecture = find_architecture(model_type)
    blocks = [block for stack in architecture.stacks for block in stack.all_blocks]
    projections = [projection for block in blocks for projection in (*block.inputs, block.output)]
    return {projection.bias for projection in projections if isinstance(projection.bias, str)}


@pytest.mark.parametrize(
    "model_type", [each for each in supported_model_types() if find_architecture(each).knows_files]
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_tensor_shapes_are_those_of_the_model(model_type: str, tied: bool, biased: bool, tmp_path: Path) -> None:
    biases = dict.fromkeys(bias_fields(model_type), biased)
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, **SMALL, tie_word_embeddings=tied, **biases)
    checkpoint = open_checkpoint(folder)
    config, found = checkpoint.config, {name: info.shape for name, info in checkpoint.tensors.items()}
    assert matrix_shapes(config) == found
    buffers = {tensor.name for tensor in find_architecture(model_type).mlp.tensors if tensor.is_buffer}
    parameters = [shape for name, shape in found.items() if not name.endswith(tuple(buffers))]
    assert parameter_count(config) == sum(map(math.prod, parameters))


@pytest.mark.parametrize("model_type", BUILDABLE)
def test_multipliers_are_of_blocks_and_projections_that_there_are(model_type: str) -> None:
    architecture = find_architecture(model_type)
    computation = architecture.computation
    assert computation is not None
    blocks = [block for stack in architecture.stacks for block in stack.all_blocks]
    assert computation.read_factors.keys() <= {block.module for block in blocks}
    projections = {each.name: each for block in blocks for each in (*block.inputs, block.output)}
    for name, factors in computation.write_factors.items():
        writes = projections[name].writes
        assert len(factors) == 1 or (isinstance(writes, Total) and len(factors) == len(writes.terms)), name


@FAMILIES
def test_only_classes_that_refuse_odd_heads_are_said_to(model_type: str) -> None:
    architecture = find_architecture(model_type)
    own = FAMILY_FIELDS.get(model_type, {})
    odd = family_fields(model_type, {**SMALL, **own, "num_attention_heads": 7, "num_key_value_heads": 7})
    if architecture.says_head_dim_when is None:
        pytest.skip("the width of a head follows from their number")
    if architecture.hidden_size_divisible_by_heads:
        with pytest.raises(Exception, match="hidden size"):
            CONFIG_MAPPING[model_type](**odd)
    else:
        CONFIG_MAPPING[model_type](**odd)


@pytest.mark.parametrize(
    ("old", "rope"),
    [
        ({"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        ),
    ],
)
def test_old_ways_of_writing_rope_are_read(old: dict[str, object], rope: dict[str, object]) -> None:
    assert ModelConfig.read(find_architecture("llama"), {**SMALL, **old}).rope_parameters == rope


def test_unsupported_family_names_the_supported_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mamba'.*\n.*bert, .*llama, .*whisper"):
        find_architecture("mamba")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("num_attention_heads", 0, ModelError),
        ("hidden_size", "wide", ModelError),
        ("num_key_value_heads", 4, ModelError),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(field: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"config.json"):
        ModelConfig.read(find_architecture("llama"), {**SMALL, field: value})


@pytest.mark.parametrize(
    ("model_type", "field", "value"),
    [
        ("qwen2", "layer_types", ["full_attention"]),
        ("smollm3", "no_rope_layers", [1, 1, 1]),
    ],
)
def test_a_list_of_another_number_of_layers_is_refused(model_type: str, field: str, value: object) -> None:
    config = ModelConfig.read(find_architecture(model_type), {**SMALL, field: value})
    with pytest.raises(ModelError, match=field):
        _ = config.sliding_windows, config.layer_ropes


@pytest.mark.parametrize(
    ("model_type", "fields", "follow"),
    [
        ("llama", {}, True),
        ("t5", {}, False),
        ("albert", {}, False),
        ("deberta-v2", {}, True),
        ("deberta-v2", {"conv_kernel_size": 3}, False),
    ],
)
def test_layers_between_which_something_happens_do_not_follow_one_another(
    model_type: str, fields: dict[str, object], follow: bool
) -> None:
    config = ModelConfig.read(find_architecture(model_type), fields)
    assert config.layers_follow_one_another == follow


def test_a_model_without_experts_is_refused_where_only_those_have_neurons() -> None:
    fields = {"num_hidden_layers": 2, "first_k_dense_replace": 2}
    with pytest.raises(UnsupportedModelError, match="first_k_dense_replace is 2"):
        ModelConfig.read(find_architecture("deepseek_v3"), fields)
    first, second = ModelConfig.read(find_architecture("deepseek_v3"), {**fields, "first_k_dense_replace": 1}).sites
    assert (first.stack.mlp, first.widths.neurons) == (None, 0)
    assert second.widths.neurons == 2048


def test_an_unknown_type_of_layer_is_refused() -> None:
    config = ModelConfig.read(find_architecture("qwen2"), {**SMALL, "layer_types": ["chunked_attention"] * 2})
    with pytest.raises(UnsupportedModelError, match="'chunked_attention'"):
        _ = config.sliding_windows
