"""OLMoE: many narrow MLPs per layer, and norms that span all query heads or all key heads at once."""

from __future__ import annotations

from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, NORMS_OF_ALL_HEADS, expert_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="olmoe",
    class_name="OlmoeForCausalLM",
    defaults={
        "vocab_size": 50304,
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "clip_qkv": None,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    },
    attention=separate_attention(bias="attention_bias", tensors=NORMS_OF_ALL_HEADS),
    mlp=expert_mlp("num_experts"),
    norms=LLAMA_NORMS,
    ignored=frozenset({"output_router_logits", "router_aux_loss_coef"}),
    # `OlmoeAttention.__init__`, `modeling_olmoe.py`, transformers 5.24: the norms are as wide as the hidden size
    says_head_dim_when=None,
)
