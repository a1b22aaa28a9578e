"""Granite 3 with experts: Granite whose MLPs are chosen per token by a router."""

from __future__ import annotations

from amp_export.architectures._computation import AttentionScale, Computation, Factor
from amp_export.architectures._expert_layouts import routed_experts
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, separate_attention

ARCHITECTURE = Architecture(
    model_type="granitemoe",
    class_name="GraniteMoeForCausalLM",
    # `configuration_granitemoe.py` and `modeling_granitemoe.py`, transformers 5.24
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=routed_experts(
        "num_local_experts",
        router="block_sparse_moe.router",
        in_files={
            "block_sparse_moe.router.weight": ("block_sparse_moe.router.layer.weight",),
            "block_sparse_moe.experts.gate_up_proj": ("block_sparse_moe.input_linear.weight",),
            "block_sparse_moe.experts.down_proj": ("block_sparse_moe.output_linear.weight",),
        },
        module="block_sparse_moe.experts",
    ),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(
        attention_scale=AttentionScale(Factor("attention_multiplier")),
        embedding_factor=Factor("embedding_multiplier"),
        scales_all_embeddings=True,
        residual_factor=Factor("residual_multiplier"),
        logit_factor=Factor("logits_scaling", -1.0),
    ),
    ignored=frozenset({"output_router_logits", "router_aux_loss_coef"}),
)
