from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from amp_export.architectures import (
    ModelConfig,
    find_architecture,
    parameter_count,
    supported_model_types,
    tensor_shapes,
)
from amp_export.errors import ModelError, UnsupportedModelError

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


@FAMILIES
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    architecture = find_architecture(model_type)
    config = CONFIG_MAPPING[model_type]()
    for name, value in architecture.defaults.items():
        # None marks what is derived from other fields, and a window that is off reads as None
        if value is not None and name != "sliding_window":
            assert getattr(config, name) == value, name
    assert architecture.class_name == AutoModelForCausalLM._model_mapping[type(config)].__name__


@FAMILIES
def test_an_empty_config_is_understood_as_transformers_understands_it(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    read = ModelConfig.read(find_architecture(model_type), {"model_type": model_type})
    assert read.num_key_value_heads == config.num_key_value_heads
    assert read.head_dim == getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert read.rope_parameters == config.rope_parameters
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    assert read.sliding_windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)


@FAMILIES
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_tensor_shapes_are_those_of_the_model(model_type: str, tied: bool, biased: bool) -> None:
    raw = {**SMALL, "tie_word_embeddings": tied}
    biases = {name: biased for name in ("attention_bias", "mlp_bias") if name in find_architecture(model_type).defaults}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**raw, **biases))
    config = ModelConfig.read(find_architecture(model_type), {**raw, **biases})
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tied:
        del expected["lm_head.weight"]
    assert tensor_shapes(config) == expected
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())


@FAMILIES
def test_only_classes_that_refuse_odd_heads_are_said_to(model_type: str) -> None:
    architecture = find_architecture(model_type)
    odd = {**SMALL, "num_attention_heads": 5, "num_key_value_heads": 5}
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
    with pytest.raises(UnsupportedModelError, match=r"'mamba'.*\n.*llama, mistral, qwen2, qwen3"):
        find_architecture("mamba")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("num_attention_heads", 0, ModelError),
        ("hidden_size", "wide", ModelError),
        ("num_key_value_heads", 4, ModelError),
        ("quantization_config", {"quant_method": "gptq"}, UnsupportedModelError),
        ("partial_rotary_factor", 0.5, UnsupportedModelError),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(field: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"config.json|quantized"):
        ModelConfig.read(find_architecture("llama"), {**SMALL, field: value})
