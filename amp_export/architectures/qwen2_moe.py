"""Qwen1.5 and Qwen2 with experts; the expert that all tokens share stays as it is."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Windows
from amp_export.architectures._expert_layouts import GATE_UP_DOWN, gated_shared_expert, routed_experts
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, separate_attention

ARCHITECTURE = Architecture(
    model_type="qwen2_moe",
    class_name="Qwen2MoeForCausalLM",
    # `configuration_qwen2_moe.py` and `modeling_qwen2_moe.py`, transformers 5.24
    defaults={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "qkv_bias": True,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    attention=separate_attention(bias="qkv_bias", output_bias=False),
    mlp=routed_experts(
        "num_experts",
        router="mlp.gate",
        in_files=GATE_UP_DOWN,
        adds_to_one="norm_topk_prob",
        shared_expert=gated_shared_expert("shared_expert_intermediate_size"),
    ),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(
        windows=Windows(switch="use_sliding_window", until_layer="max_window_layers", full_every=2)
    ),
    names={"intermediate_size": "moe_intermediate_size"},
    ignored=frozenset({"intermediate_size", "output_router_logits", "router_aux_loss_coef"}),
    # layers with a plain MLP between those with experts have another width
    required={"decoder_sparse_step": 1, "mlp_only_layers": []},
)
