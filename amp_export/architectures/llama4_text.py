"""Llama 4's text model: chunked attention, layers without positions, and experts besides one that all tokens share."""

from __future__ import annotations

from dataclasses import replace

from amp_export.architectures._blocks import SharedExpert
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import LLAMA_NORMS, expert_mlp, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="llama4_text",
    class_name="Llama4ForCausalLM",
    # `configuration_llama4.py` and `modeling_llama4.py`, transformers 5.24
    defaults={
        "vocab_size": 202048,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "attention_chunk_size": 8192,
        "layer_types": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "use_qk_norm": True,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "attn_scale": 0.1,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "moe_layers": None,
        "interleave_moe_layer_step": 1,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=replace(
        expert_mlp("num_local_experts", module="feed_forward.experts", transposed=True),
        attributes={},
        shared_expert=SharedExpert(gated_mlp(module="feed_forward.shared_expert")),
        scales_inputs=True,
    ),
    norms=LLAMA_NORMS,
    mlp_layers=LayerRule(numbers="moe_layers", every="interleave_moe_layer_step"),
    ignored=frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"}),
)
