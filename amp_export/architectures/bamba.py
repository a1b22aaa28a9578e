"""Bamba: state-space mixers in most layers, which stay, and grouped-query attention in the others."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Order, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import (
    MAMBA2,
    gated_mlp,
    language_model,
    mamba2_head_width,
    norm,
    separate_attention,
    state_space,
)

ARCHITECTURE = Architecture(
    model_type="bamba",
    class_name="BambaForCausalLM",
    # `configuration_bamba.py` and `modeling_bamba.py`, transformers 5.24
    defaults={
        "vocab_size": 128000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "partial_rotary_factor": 0.5,
        "attention_bias": False,
        "mlp_bias": False,
        "attn_layer_indices": None,
        **MAMBA2,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(module="feed_forward", bias="mlp_bias"),
    norms=(*norm("input_layernorm"), *norm("pre_ff_layernorm")),
    tensors=language_model("model.embed_tokens", norm("model.final_layernorm")),
    mixer=state_space("mamba"),
    attention_layers=LayerRule(numbers="attn_layer_indices", otherwise=False),
    keeps_states=True,
    computation=Computation(
        positions=Rotary(partial="partial_rotary_factor"),
        orders=(Order("input_layernorm", "pre_ff_layernorm"),),
        final_norm="model.final_layernorm",
    ),
    derived=mamba2_head_width("mamba_expand", "hidden_size"),
    # transformers sets it, whatever a file says
    required={"partial_rotary_factor": 0.5},
    ignored=frozenset({"num_logits_to_keep", "z_loss_coefficient"}),
)
