"""Qwen3.5's language model: gated delta rules mix the tokens in three of four layers, and stay; gated attention."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, NormKind, Rotary
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import (
    GATED_DELTA,
    LLAMA_NORMS,
    LLAMA_TENSORS,
    gated_attention,
    gated_delta_rule,
    gated_mlp,
)

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
        **GATED_DELTA,
        "layer_types": None,
        "partial_rotary_factor": 0.25,
    },
    attention=gated_attention(),
    mlp=gated_mlp(),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    mixer=gated_delta_rule(),
    attention_layers=LayerRule(kinds={"layer_types": ("full_attention",)}, every="full_attention_interval"),
    derived=(Derived("full_attention_interval", 4),),
    keeps_states=True,
    computation=Computation(
        norm=NormKind.RMS_FROM_ONE,
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm"),
        positions=Rotary(partial="partial_rotary_factor"),
        gates_attention=True,
    ),
    # `_keys_to_ignore_on_load_unexpected`, and `PrefixChange`, conversion_mapping.py
    harmless=("mtp", "visual"),
    other_prefixes={"model.language_model.": "model."},
)
