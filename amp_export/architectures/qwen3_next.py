"""Qwen3-Next: gated delta rules mix the tokens in three of four layers, and stay; gated attention, and experts."""

from __future__ import annotations

from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._layouts import GATED_DELTA, LLAMA_NORMS, expert_mlp, gated_attention

ARCHITECTURE = Architecture(
    model_type="qwen3_next",
    class_name="Qwen3NextForCausalLM",
    # `configuration_qwen3_next.py` and `modeling_qwen3_next.py`, transformers 5.24
    defaults={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        **GATED_DELTA,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "layer_types": None,
    },
    attention=gated_attention(),
    mlp=expert_mlp("num_experts"),
    norms=LLAMA_NORMS,
    attention_layers=LayerRule(kinds={"layer_types": ("full_attention",)}, every="full_attention_interval"),
    keeps_states=True,
    derived=(Derived("full_attention_interval", 4),),
    names={"intermediate_size": "moe_intermediate_size"},
    ignored=frozenset({"intermediate_size", "output_router_logits", "router_aux_loss_coef"}),
    # layers with a plain MLP between those with experts have another width
    required={"decoder_sparse_step": 1, "mlp_only_layers": []},
)
