"""Qwen3.5's language model: gated delta rules mix the tokens in three of four layers, and stay; gated attention."""

from __future__ import annotations

from dataclasses import replace

from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import LLAMA_NORMS, NORMS_OF_EACH_HEAD, gated_mlp, separate_attention

_ATTENTION = separate_attention(bias="attention_bias", tensors=NORMS_OF_EACH_HEAD)
_QUERY, *_OTHERS = _ATTENTION.inputs

ARCHITECTURE = Architecture(
    model_type="qwen3_5_text",
    class_name="Qwen3_5ForCausalLM",
    # `configuration_qwen3_5.py` and `modeling_qwen3_5.py`, transformers 5.24
    defaults={
        "vocab_size": 248320,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "layer_types": None,
    },
    # the rows of a query head are followed by those of the gate of its output
    attention=replace(_ATTENTION, inputs=(replace(_QUERY, entries_per_head=("head_dim", "head_dim")), *_OTHERS)),
    mlp=gated_mlp(),
    norms=LLAMA_NORMS,
    attention_layers=LayerRule(kinds={"layer_types": ("full_attention",)}, every="full_attention_interval"),
    derived=(Derived("full_attention_interval", 4),),
    keeps_states=True,
)
