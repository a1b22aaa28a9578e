"""Phi-3.5-MoE: experts with a sparse mixer, and layer norms."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, NormKind, Rotary
from amp_export.architectures._expert_layouts import W1_TO_W3, routed_experts
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import language_model, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="phimoe",
    class_name="PhimoeForCausalLM",
    # `configuration_phimoe.py` and `modeling_phimoe.py`, transformers 5.24
    defaults={
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 6400,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "sliding_window": None,
        "attention_bias": False,
        "lm_head_bias": False,
        "num_local_experts": 16,
        "num_experts_per_tok": 2,
        "router_jitter_noise": 0.01,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=routed_experts(
        "num_local_experts",
        router="mlp.router",
        in_files={"mlp.router.weight": ("block_sparse_moe.gate.weight",), **W1_TO_W3},
        # `PhimoeTopKRouter` reads num_experts_per_tok, and `sparsemixer` leaves it unused
        chosen=2,
        sparse_mixer="router_jitter_noise",
    ),
    norms=(*norm("input_layernorm", bias=True), *norm("post_attention_layernorm", bias=True)),
    tensors=language_model("model.embed_tokens", norm("model.norm", bias=True), head_bias="lm_head_bias"),
    # `PhimoeRotaryEmbedding` takes its own factors on other types
    computation=Computation(norm=NormKind.LAYER, positions=Rotary(("rope_theta", 1_000_000.0), types=("default",))),
    ignored=frozenset({"input_jitter_noise", "output_router_logits", "router_aux_loss_coef"}),
    windows_every_layer=True,
)
