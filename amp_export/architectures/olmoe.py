"""OLMoE: many narrow MLPs per layer, and norms that span all query heads or all key heads at once."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, NormSpan
from amp_export.architectures._expert_layouts import GATE_UP_DOWN, routed_experts
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, NORMS_OF_ALL_HEADS, separate_attention

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
    # `OlmoeTopKRouter` and `OlmoeAttention`, `modeling_olmoe.py`, transformers 5.24
    mlp=routed_experts("num_experts", router="mlp.gate", in_files=GATE_UP_DOWN, adds_to_one="norm_topk_prob"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm", NormSpan.ALL_HEADS), attention_clip="clip_qkv"
    ),
    ignored=frozenset({"output_router_logits", "router_aux_loss_coef"}),
    # `OlmoeAttention.__init__`, `modeling_olmoe.py`, transformers 5.24: the norms are as wide as the hidden size
    says_head_dim_when=None,
)
