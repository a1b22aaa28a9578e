"""Gemma 4's text model: the last layers attend to keys and values of others, and each layer has an input of its own."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import GEMMA_NORMS, gated_mlp

ARCHITECTURE = Architecture(
    model_type="gemma4_text",
    class_name="Gemma4ForCausalLM",
    # `configuration_gemma4.py` and `modeling_gemma4.py`, transformers 5.24
    defaults={
        "vocab_size": 262144,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 30,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "attention_bias": False,
        "sliding_window": 512,
        "layer_types": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": None,
        "vocab_size_per_layer_input": 262144,
        "hidden_size_per_layer_input": 256,
        "attention_k_eq_v": False,
        "num_kv_shared_layers": 0,
        "enable_moe_block": False,
        "use_double_wide_mlp": False,
    },
    attention=Block("self_attn", (), Projection("self_attn.o_proj", bias="attention_bias")),
    mlp=gated_mlp(),
    norms=GEMMA_NORMS,
    shares_cache="num_kv_shared_layers",
    heads_stay="those of some layers are wider than those of others, and layers share keys and values",
    # where layers share keys and values, their MLPs may be twice as wide as the others
    mlp_layers=LayerRule(before="num_kv_shared_layers", when={"use_double_wide_mlp": True}),
    says_neurons_when={"use_double_wide_mlp": False},
    derived=(Derived("head_dim", 256),),
    layers_follow_when={"num_kv_shared_layers": 0},
    ignored=frozenset({"moe_intermediate_size", "num_experts", "per_layer_config", "top_k_experts"}),
    required={"enable_moe_block": False, "use_bidirectional_attention": None},
)
