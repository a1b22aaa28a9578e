"""Falcon-H1: attention beside a state-space mixer, which stays, in each layer."""

from __future__ import annotations

from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import MAMBA2, gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="falcon_h1",
    class_name="FalconH1ForCausalLM",
    # `configuration_falcon_h1.py` and `modeling_falcon_h1.py`, transformers 5.24
    defaults={
        "vocab_size": 128000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
        "projectors_bias": False,
        "key_multiplier": 1.0,
        "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 1.0,
        "mlp_multipliers": None,
        "ssm_multipliers": None,
        "ssm_in_multiplier": 1.0,
        "ssm_out_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "lm_head_multiplier": 1.0,
        **MAMBA2,
        "mamba_d_ssm": 1024,
        "mamba_norm_before_gate": True,
        "mamba_rms_norm": False,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(module="feed_forward", bias="mlp_bias"),
    norms=(*norm("input_layernorm"), *norm("pre_ff_layernorm")),
    ignored=frozenset({"num_logits_to_keep"}),
    keeps_states=True,
)
